"""A folder of little texts, to learn from in tests."""

from pathlib import Path


def folder_of(path: Path, count: int = 40) -> Path:
    path.mkdir()
    for index in range(count):
        (path / f"{index}.txt").write_text(f"This is text number {index}.\n" * 20)
    return path
