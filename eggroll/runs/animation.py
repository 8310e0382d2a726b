"""Pictures of what happened, one after the other: as a GIF or as a strip."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from eggroll.errors import UserError
from eggroll.runs import atomic


PAPER, INK, EDGE = "white", "#374151", "#e5e7eb"
SHORTEST, TALLEST = 200, 400  # sides of a picture within the film, in pixels
MARGIN, LINE = 8, 26


class Frame(NamedTuple):
    """A moment.

    Attributes:
        caption: What to write above it.
        draw: Draws it; called when it is needed.
    """

    caption: str
    draw: Callable[[], UInt8[np.ndarray, "height width 3"]]


def check_path(path: Path) -> None:
    """Refuses a file of a kind that cannot be written."""
    if path.suffix not in (".gif", ".png"):
        raise UserError(
            f"output: expected a file that ends in .gif (a film) or in .png (a strip), "
            f"got {str(path)!r}"
        )


def write(frames: Sequence[Frame], path: Path) -> None:
    """Writes a film, or a strip of at most eight frames, as the file's name asks.

    Args:
        frames: In the order of time, one at least.
        path: It ends in `.gif` or `.png`.
    """
    check_path(path)
    with atomic.replacing(path) as new:
        if path.suffix == ".gif":
            _film(frames, new)
        else:
            strip(frames).save(new)


def _film(frames: Sequence[Frame], path: Path) -> None:
    # From 3 to 15 seconds in all where frames of 30 to 250 ms allow.
    pace = int(np.clip(12_000 / len(frames), 30, 250))
    pace = [pace] * (len(frames) - 1) + [1_500]  # a while on the last one
    first, rest = picture(frames[0]), map(picture, frames[1:])
    first.save(path, save_all=True, append_images=rest, duration=pace, loop=0)


def strip(frames: Sequence[Frame], count: int = 8) -> Image.Image:
    """Some of the frames, first and last among them, in two rows at most."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int))
    pictures = [picture(frames[i]) for i in chosen]
    columns = -(-len(pictures) // (2 if len(pictures) > 4 else 1))
    width, height = (max(sides) for sides in zip(*(one.size for one in pictures)))  # noqa: B905
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), PAPER)
    for i, one in enumerate(pictures):
        sheet.paste(one, (i % columns * width, i // columns * height))
    return sheet


def picture(frame: Frame) -> Image.Image:
    """A frame with its caption, at a size that is good to look at."""
    from matplotlib import font_manager  # slow to load, and wanted here alone

    image = Image.fromarray(frame.draw())
    least, most = min(image.size), max(image.size)
    if least < SHORTEST:  # by a whole number, so that pixels stay pixels
        factor = max(min(-(-SHORTEST // least), 2 * TALLEST // most), 1)
        size = (image.width * factor, image.height * factor)
        image = image.resize(size, Image.Resampling.NEAREST)
    elif image.height > TALLEST:
        size = (image.width * TALLEST // image.height, TALLEST)
        image = image.resize(size, Image.Resampling.LANCZOS)
    sheet = Image.new(
        "RGB", (image.width + 2 * MARGIN, image.height + LINE + MARGIN), PAPER
    )
    sheet.paste(image, (MARGIN, LINE))
    draw, edge = ImageDraw.Draw(sheet), (MARGIN - 1, LINE - 1)
    draw.rectangle((edge, (MARGIN + image.width, LINE + image.height)), outline=EDGE)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 13)
    draw.text((MARGIN, LINE // 2), frame.caption, INK, font, anchor="lm")
    return sheet
