"""Draws the diagnostics of an integer run: what its votes and its weights did.

    python -m tasks.language.plot runs/demo-language

writes `diagnostics.png` beside the run's curve.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eggroll import UserError
from eggroll.runs import curves, load, metrics
from eggroll.training import instantiate


Rows = Sequence[Mapping[str, float]]

# Each panel: a title, the metrics to draw (by the start of their names), and a level.
PANELS = (
    ("bits a byte, held-out part", "validation/bits/byte", None),
    ("mean size of votes, in deviations of noise", "votes/margin", 0.8),
    ("share of the weights that moved", "update/changed", None),
    ("entropy of the weights, in bits", "validation/weights/entropy", None),
    ("share of weights at the end of their range", "weights/saturated", None),
    ("share of saturated activations", "validation/saturation/", None),
)


def draw(directory: str | Path) -> Path:
    """Draws the diagnostics of a run and returns where.

    Raises:
        UserError: the run is none of the integer algorithm.
    """
    run = load(directory)
    rows = metrics.read(run.metrics)
    if not any("votes/margin" in row for row in rows):
        raise UserError(f"{run.path}: only runs of `algorithm: integer` record votes")
    with rc_context(curves.STYLE):
        figure = Figure(figsize=(11, 7), layout="constrained")
        for axes, (title, start, level) in zip(
            figure.subplots(3, 2, sharex=True).flat, PANELS, strict=True
        ):
            _panel(axes, rows, start)
            axes.set_title(title)
            if level is not None:
                axes.axhline(level, color="#9ca3af", linewidth=1)
        lines = instantiate.task(run.config).reference
        for name, value in lines.items():
            axes = figure.axes[0]
            axes.axhline(value, color="#9ca3af", linewidth=1)
            axes.annotate(name, (1, value), xycoords=("axes fraction", "data"))
        path = run.path / "diagnostics.png"
        figure.savefig(path)
    return path


def _panel(axes: Axes, rows: Rows, start: str) -> None:
    """All metrics whose names begin so, each a line."""
    names = dict.fromkeys(
        name for row in rows for name in row if name.startswith(start)
    )
    for index, name in enumerate(names):
        points = [(row["step"], row[name]) for row in rows if name in row]
        again, index = divmod(index, len(curves.COLOURS))
        axes.plot(
            *zip(*points, strict=True),
            label=name[len(start) :],
            color=curves.COLOURS[index],
            linestyle="--" if again else "-",
        )
    if len(names) > 1:
        axes.legend(fontsize="x-small", ncols=2)


if __name__ == "__main__":
    for one in sys.argv[1:]:
        sys.stdout.write(f"{draw(one)}\n")
