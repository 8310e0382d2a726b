"""Files that are there whole or not at all, wherever a kill or a full disk strikes."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from eggroll.errors import UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Hands out a path to write to, whose file takes the place of `path` at the end.

    After a failure the old file is there as it was, and nothing beside it. Both names
    end alike, for those who tell the kind of a file by its name.
    """
    new = path.with_name(f"{path.stem}.new{path.suffix}")
    try:
        yield new
        # Or a loss of power might keep the new name and lose what is in the file.
        _flush(new)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    flush_names(path.parent)


@contextlib.contextmanager
def making(path: Path) -> Iterator[Path]:
    """Hands out an empty directory, which takes the name of `path` at the end.

    After a failure there is nothing of it.

    Raises:
        UserError: there is something of that name, which is left alone.
    """
    if path.exists():
        raise UserError(f"{path} exists already, and nothing is written over it")
    new = path.with_name(f".{path.name}.new")
    shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
    new.mkdir(parents=True)
    try:
        yield new
        for file in (x for x in new.rglob("*") if x.is_file()):
            _flush(file)
        new.rename(path)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    flush_names(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes a file at once."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file at once."""
    with replacing(path) as new:
        new.write_bytes(content)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_names(directory: Path) -> None:
    """Lets the new name of a file outlast a loss of power."""
    if os.name != "posix":
        return  # elsewhere, directories cannot be opened
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
