"""Many figures of a run side by side, each as its running median within a band."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eggroll.runs.curves import COLOURS, STYLE


COLUMNS = 3
WINDOWS = 25  # of the band, one after the other over the run


def panels(
    rows: Sequence[Mapping[str, float]], names: Mapping[str, str]
) -> Figure | None:
    """Draws some figures against the steps.

    Args:
        rows: Of `metrics.jsonl`.
        names: Of the figures, and what to call each; one that no row has is left out.

    Returns:
        The figure; None if there is nothing to draw.
    """
    tables = {name: _column(rows, name) for name in names}
    tables = {name: table for name, table in tables.items() if len(table) > 1}
    if not tables:
        return None
    lines = -(-len(tables) // COLUMNS)
    with rc_context({**STYLE, "font.size": 8, "axes.titlesize": 9}):
        size = (3.1 * COLUMNS, 1.9 * lines + 0.2)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
        for panel, (name, table) in zip(axes, tables.items(), strict=False):
            at, low, middle, high = bands(table)
            panel.fill_between(at, low, high, color=COLOURS[0], alpha=0.18, linewidth=0)
            panel.plot(at, middle, color=COLOURS[0])
            panel.set_title(names[name])
            panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        for panel in axes[len(tables) :]:
            panel.set_axis_off()
        return figure


def bands(table: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "4 windows"]:
    """Of each part of a run its mean step, and tenth, median and ninetieth percent."""
    parts = np.array_split(table, min(WINDOWS, len(table)))
    rows = [
        (part[:, 0].mean(), *np.quantile(part[:, 1], (0.1, 0.5, 0.9))) for part in parts
    ]
    return np.array(rows).T


def _column(rows: Sequence[Mapping[str, float]], name: str) -> Float[np.ndarray, "n 2"]:
    return np.array([(row["step"], row[name]) for row in rows if name in row], float)
