"""The picture of a sweep: its results over each setting that was searched."""

import math
from collections.abc import Callable
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eggroll.runs.curves import COLOURS, STYLE, save
from eggroll.sweep.record import Record, Trial, mean_and_error, shortened, worded


def picture(record: Record, path: Path) -> Path:
    """Draws the result of each trial of a sweep over each setting that was searched.

    Args:
        record: The sweep; one trial at least must have a result.
        path: Of the picture.

    Returns:
        `path`.
    """
    names = sorted({name for one in record.trials.values() for name in one.settings})
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    with rc_context(STYLE):
        figure = Figure(
            figsize=(3 * columns + 0.6, 2.7 * rows + 0.6), layout="constrained"
        )
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for panel, name, short in zip(panels, names, shortened(names), strict=False):
            _trials(panel, record, name)
            panel.set_xlabel(short)
        for panel in panels[len(names) :]:
            panel.set_axis_off()
        for panel in panels[::columns]:
            panel.set_ylabel(record.metric)
        best = record.ranked()[0]
        figure.suptitle(
            f"{path.parent.name}: best {mean_and_error(best)} (trial {best.number})",
            x=0.01,
            ha="left",
            fontsize=11,
            fontweight="bold",
        )
        return save(figure, path)


def _trials(axes: Axes, record: Record, name: str) -> None:
    """One panel of a sweep; the best trial has the second colour."""
    ranked, failed = record.ranked(), record.failed()
    place = _scale(axes, record, name)
    for trial in reversed(ranked):  # the best one last, on top
        axes.errorbar(
            place(trial),
            trial.mean,
            yerr=None if math.isnan(trial.error) else trial.error,
            fmt="o",
            markersize=6,
            markeredgecolor="white",
            markeredgewidth=0.7,
            elinewidth=1,
            color=COLOURS[1] if trial is ranked[0] else COLOURS[0],
        )
    at_bottom = axes.get_xaxis_transform()
    x, y = [place(trial) for trial in failed], [0.03] * len(failed)
    axes.plot(x, y, "x", color="#9ca3af", markersize=5, transform=at_bottom)


def _scale(axes: Axes, record: Record, name: str) -> Callable[[Trial], float]:
    """Sets up the axis of a searched setting; returns where on it a trial is."""
    searched = record.asked[f"sweep.{name}"]
    if isinstance(searched, dict):
        axes.set_xscale(searched["kind"])
        axes.set_xlim(*_widened(searched["low"], searched["high"], searched["kind"]))
        return lambda trial: trial.settings[name]
    axes.set_xticks(range(len(searched)), [worded(one) for one in searched])
    axes.set_xlim(-0.5, len(searched) - 0.5)
    axes.grid(False, axis="x")
    # Side by side, so that equal choices do not hide each other.
    spread = 0.5 / max(len(record.trials), 2)
    return lambda trial: (
        searched.index(trial.settings[name])
        + spread * (trial.number - (len(record.trials) - 1) / 2)
    )


def _widened(low: float, high: float, kind: str) -> tuple[float, float]:
    """The bounds of an axis that shows points on both ends of a range whole."""
    if kind == "log":
        margin = (high / low) ** 0.06
        return low / margin, high * margin
    margin = 0.06 * (high - low)
    return low - margin, high + margin
