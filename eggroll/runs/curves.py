"""Curves of one run, and of several against each other."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from eggroll.errors import UserError
from eggroll.runs import atomic, metrics
from eggroll.runs.directory import Run
from eggroll.runs.metrics import Row
from eggroll.runs.outlines import Outline
from eggroll.task.protocol import Task


PREFIX = "validation/"
COLOURS = ("#1f6feb", "#d1570c", "#1a8754", "#8a3ffc", "#c2185b", "#6b7280")
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.dpi": 150,
}


def curve(run: Run | Outline, task: Task | Outline) -> Path:
    """Draws a run's `curve.png`: the headline metric over the population's fitness.

    Args:
        run: The run; it needs one validation at least.
        task: Gives the reference lines.

    Returns:
        The path of the picture.
    """
    with rc_context(STYLE):
        return save(curve_figure(run, task), run.curve)


def curve_figure(run: Run | Outline, task: Task | Outline) -> Figure:
    """The figure that `curve` saves."""
    rows = _rows(run)
    headline = headline_of(rows)
    with rc_context(STYLE):
        figure = Figure(figsize=(7.5, 6), layout="constrained")
        above, below = figure.subplots(2, sharex=True, height_ratios=(3, 2))
        above.set_title(_plain(f"{run.path.name}: {headline.removeprefix(PREFIX)}"))
        steps, values = _columns(rows, "step", headline)
        above.plot(steps, values, color=COLOURS[0], marker="o", markersize=3)
        at, mean, error = _columns(rows, "step", headline, f"{headline}_sem")
        band = {"color": COLOURS[0], "alpha": 0.18, "linewidth": 0}
        above.fill_between(at, mean - error, mean + error, **band)
        _label_end(above, steps, values)
        _reference(above, task)
        _fitness(below, rows)
        below.set_xlabel("step")
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        return figure


def comparison(
    runs: Sequence[Run | Outline],
    tasks: Sequence[Task | Outline],
    path: Path,
) -> Path:
    """Draws the headline metric of several runs against time, samples and steps.

    Args:
        runs: The runs, of one headline metric.
        tasks: Of each run.
        path: Of the picture.

    Returns:
        `path`.

    Raises:
        UserError: The runs measure different things.
    """
    tables = [_rows(run) for run in runs]
    headlines = {headline_of(rows) for rows in tables}
    if len(headlines) > 1:
        found = ", ".join(name.removeprefix(PREFIX) for name in sorted(headlines))
        raise UserError(f"these runs measure different things ({found})")
    headline = headlines.pop()
    samples = " / ".join(sorted({task.samples for task in tasks}))
    axes_of = {"seconds": "time (s)", "samples": samples, "step": "steps"}
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        panels = figure.subplots(1, len(axes_of), sharey=True)
        for panel, (name, label) in zip(panels, axes_of.items(), strict=True):
            colours = itertools.cycle(COLOURS)
            for run, rows, colour in zip(runs, tables, colours, strict=False):
                x, y = _columns(rows, name, headline)
                text = f"{run.path.name} ({run.algorithm})"
                panel.plot(x, y, color=colour, marker="o", markersize=3, label=text)
            panel.set_xlabel(label)
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
            _reference(panel, tasks[0], is_labelled=panel is panels[-1])
        panels[0].set_ylabel(headline.removeprefix(PREFIX))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3)
        return save(figure, path)


def headline_of(rows: Sequence[Row]) -> str:
    """The name of the first metric that validation gave."""
    names = (name for row in rows for name in row if name.startswith(PREFIX))
    return next(names)


def _rows(run: Run | Outline) -> list[Row]:
    rows = metrics.read(run.metrics)
    if not any(name.startswith(PREFIX) for row in rows for name in row):
        raise UserError(
            f"{run.path}: there is nothing to draw before a first validation"
        )
    return rows


def _columns(rows: Sequence[Row], *names: str) -> tuple[np.ndarray, ...]:
    """The rows that have all of these figures, as one array for each."""
    whole = [row for row in rows if all(name in row for name in names)]
    return tuple(np.array([row[name] for row in whole]) for name in names)


def _fitness(axes: Axes, rows: Sequence[Row]) -> None:
    names = ("step", "fitness/mean", "fitness/spread", "fitness/best")
    steps, mean, spread, best = _columns(rows, *names)
    axes.set_title("fitness of the population")
    if len(steps):
        low, high = mean - spread, np.minimum(mean + spread, best)
        band = {"color": COLOURS[1], "alpha": 0.18, "linewidth": 0}
        axes.fill_between(steps, low, high, **band, label="± spread")
        axes.plot(steps, mean, color=COLOURS[1], label="mean")
        axes.plot(steps, best, color="#9ca3af", linewidth=1, label="best")
        axes.legend(loc="best", ncols=3)


def _label_end(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    axes.annotate(
        f"{y[-1]:.4g}",
        (x[-1], y[-1]),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color=COLOURS[0],
        fontweight="bold",
        annotation_clip=False,
    )


def _reference(axes: Axes, task: Task | Outline, is_labelled: bool = True) -> None:
    for name, value in task.reference.items():
        axes.axhline(value, color="#6b7280", linewidth=1, linestyle=(0, (4, 3)))
        if is_labelled:
            axes.annotate(
                _plain(f"{name} {value:.4g}"),
                (0.01, value),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                fontsize=8,
                color="#6b7280",
            )


def _plain(text: str) -> str:
    """A text of others, in which nothing is a formula."""
    return text.replace("$", r"\$")


def save(figure: Figure, path: Path) -> Path:
    """Writes a picture at once, and returns its path."""
    with atomic.replacing(path) as new:
        figure.savefig(new)
    return path
