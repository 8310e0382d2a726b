"""What the states of a run were that were saved: their digests, beside its replay log.

They outlast the checkpoints, so that who makes a state again from the log can tell
whether it is the same.
"""

import contextlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path

from eggroll.runs import atomic


NAME = "states.jsonl"
BAD = (ValueError, TypeError, RecursionError)  # what damaged lines raise


def seal(directory: Path, step: int, digests: Mapping[str, str]) -> None:
    """Notes what the state of a step was, for those who make it again."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / NAME).open("a", encoding="utf-8") as file:
        file.write(_seal(step, digests))


def sealed(directory: Path) -> dict[int, dict[str, str]]:
    """The digests of states that are known, by step."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for line in (directory / NAME).read_bytes().splitlines():
            with contextlib.suppress(*BAD):
                crc, _, body = line.partition(b" ")
                if int(crc, 16) == zlib.crc32(body):
                    step, digests = json.loads(body)
                    found[step] = digests
    return found


def forget_after(directory: Path, step: int) -> None:
    """Drops what is known of later steps, and lines that are damaged."""
    if (directory / NAME).exists():
        kept = {one: found for one, found in sealed(directory).items() if one <= step}
        text = "".join(_seal(one, found) for one, found in kept.items())
        atomic.write_text(directory / NAME, text)


def _seal(step: int, digests: Mapping[str, str]) -> str:
    body = json.dumps([step, dict(digests)])
    return f"{zlib.crc32(body.encode()):08x} {body}\n"
