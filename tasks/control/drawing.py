"""Pictures of states, for environments whose library draws none: flat shapes, grids."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


Image = UInt8[np.ndarray, "height width 3"]
INK, BLUE, ORANGE, GREEN, GREY = "#374151", "#1f6feb", "#d1570c", "#1a8754", "#d1d5db"
DARK = (17, 24, 39)


class Shape(NamedTuple):
    """A filled polygon, in the units of the environment."""

    outline: Float[np.ndarray, "corners 2"]
    colour: str = INK


def capsule(
    start: Sequence[ArrayLike], end: Sequence[ArrayLike], radius: float
) -> Float[np.ndarray, "corners 2"]:
    """The outline of a rod with round ends; a disc where both ends are the same."""
    ends = np.array([start, end], float)
    direction = np.arctan2(*(ends[1] - ends[0])[::-1])
    turn = direction + np.linspace(-np.pi / 2, np.pi / 2, 16)
    round_end = radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return np.concatenate([ends[1] + round_end, ends[0] - round_end])


def box(
    centre: Sequence[ArrayLike], width: float, height: float
) -> Float[np.ndarray, "corners 2"]:
    """The outline of an upright rectangle."""
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    return np.array(centre, float) + corners * (width, height)


def scene(
    shapes: Sequence[Shape], x: tuple[float, float], y: tuple[float, float]
) -> Image:
    """A picture of shapes, later ones on top, in the window of these bounds."""
    across, up = x[1] - x[0], y[1] - y[0]
    scale = 4.8 / max(across, 1.4 * up)
    figure = Figure(figsize=(scale * across, scale * up), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1), xlim=x, ylim=y)
    axes.set_axis_off()
    for shape in shapes:
        axes.fill(*shape.outline.T, color=shape.colour, linewidth=0)
    return image_of(figure)


def grid(cells: ArrayLike) -> Image | None:
    """A picture of a grid of channels, each of a colour; None of anything else.

    Args:
        cells: (rows, columns) or (rows, columns, channels); what is not 0 is drawn, the
            last such channel on top.
    """
    cells = np.asarray(cells)
    if cells.ndim not in (2, 3) or min(cells.shape) < 2:
        return None
    present = cells.reshape(*cells.shape[:2], -1) != 0
    count = present.shape[2]
    hues = colormaps["turbo"](np.linspace(0.15, 0.9, count))[:, :3] * 255
    top = count - 1 - np.argmax(present[..., ::-1], axis=2)
    colours = np.where(present.any(axis=2)[..., None], hues[top], DARK)
    size = max(320 // present.shape[0], 2)
    image = np.uint8(colours).repeat(size, axis=0).repeat(size, axis=1)
    if size > 8:  # lines between the cells
        image[::size], image[:, ::size] = DARK, DARK
    return image


def board(values: ArrayLike) -> Image:
    """A picture of a square board of numbers; zeros are empty."""
    rows = np.asarray(values)
    figure = Figure(figsize=(3.2, 3.2), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    powers = np.log2(np.maximum(rows, 1))
    axes.imshow(powers, cmap="YlOrBr", vmin=-1, vmax=12)
    _lines(axes, len(rows))
    for (i, j), value in np.ndenumerate(rows):
        if value:
            colour = "white" if powers[i, j] > 6 else INK
            style = {"ha": "center", "va": "center", "color": colour, "size": 16}
            axes.text(j, i, str(value), weight="bold", **style)
    return image_of(figure)


def image_of(figure: Figure) -> Image:
    """What a figure of matplotlib looks like."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _lines(axes: Axes, count: int) -> None:
    for place in np.arange(count + 1) - 0.5:
        axes.axhline(place, color="white", linewidth=4)
        axes.axvline(place, color="white", linewidth=4)
