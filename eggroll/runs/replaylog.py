"""The replay log of a run: the few numbers of each step that cannot be reckoned again.

A directory of segments, a new one for each sitting and each checkpoint, so that old
ones can go. A segment `STEP.log` follows the state after that step. It is one line of
JSON (what its records hold, and the settings in force), and records of equal length,
each of a step, a checksum at its end:

    step (8 bytes, little endian) · whether the run ended with it (1) ·
    progress (floats of 8 bytes) · the arrays · CRC-32 of line and record (4)

So a record is known to be damaged, or of another segment, by itself; and what a kill
cuts off is the tail of the last one, of which no more is lost than that step.
"""

import contextlib
import itertools
import json
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from eggroll.errors import UserError
from eggroll.runs import atomic


KIND = "eggroll replay log, 1"
BAD = (ValueError, KeyError, TypeError, RecursionError)  # what damaged lines raise
HEAD = struct.Struct("<QB")
CRC = struct.Struct("<I")
Arrays = dict[str, np.ndarray]


class Damaged(ValueError):
    """The record of a step cannot be read though later ones can."""


class Record(NamedTuple):
    """What a step cannot be made from again without evaluating.

    Attributes:
        step: The number of the state that the step led to.
        progress: What the run has used by then, numbers whose names the segment has.
        arrays: Of its evaluation, by name.
        ends: Whether the sitting was to end with it.
    """

    step: int
    progress: dict[str, float]
    arrays: Arrays
    ends: bool = False


class Segment(NamedTuple):
    """One file of a log.

    Attributes:
        path: Of the file.
        start: The step of the state that it follows.
        facts: What its first line says.
        crc: Of that line.
        offset: In bytes, of the first record.
    """

    path: Path
    start: int
    facts: dict[str, Any]
    crc: int
    offset: int

    @property
    def forms(self) -> list[tuple[str, np.dtype, tuple[int, ...]]]:
        """The arrays of each record: name, type and shape."""
        arrays = self.facts["arrays"]
        return [(name, np.dtype(kind), tuple(shape)) for name, kind, shape in arrays]

    @property
    def size(self) -> int:
        """Bytes of a record."""
        bodies = sum(kind.itemsize * math.prod(shape) for _, kind, shape in self.forms)
        return HEAD.size + 8 * len(self.facts["progress"]) + bodies + CRC.size


class Writer:
    """Appends to the log of a run; a record counts once it is whole."""

    def __init__(self, directory: Path, step: int, facts: Mapping[str, Any]):
        """Writes nothing yet.

        Args:
            directory: Of the log.
            step: The state that the next record follows.
            facts: Plain data for the first line of each segment.
        """
        self._directory, self._facts, self._step = directory, dict(facts), step
        self._segment: Segment | None = None
        self._file: IO[bytes] | None = None

    def append(self, record: Record) -> None:
        """Writes a record.

        Raises:
            UserError: It cannot be written.
        """
        arrays = {name: np.asarray(x) for name, x in record.arrays.items()}
        try:
            segment, file = self._opened(arrays, list(record.progress))
            _write(file, _packed(record._replace(arrays=arrays), segment.crc))
        except OSError as error:
            raise UserError(
                f"{self._directory} cannot be written ({error.strerror}): make room, "
                "or allow it to be written, and resume; or set replay_log to none"
            ) from error
        self._step = record.step

    def cut(self) -> Callable[[], None]:
        """Begins another segment with the next record.

        Returns:
            What makes the last one durable and closes it, in any thread.
        """
        file, self._file, self._segment = self._file, None, None

        def finish() -> None:
            if file is not None:
                with file:
                    os.fsync(file.fileno())
                atomic.flush_names(self._directory)

        return finish

    def _opened(self, arrays: Arrays, progress: list[str]) -> tuple[Segment, IO[bytes]]:
        """The segment that takes such arrays, and its file."""
        forms = [(name, x.dtype, x.shape) for name, x in arrays.items()]
        if self._segment is not None and self._segment.forms != forms:
            self.cut()()
        if self._segment is None or self._file is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            kinds = [[name, str(kind), list(shape)] for name, kind, shape in forms]
            facts = {"start": self._step, "arrays": kinds, "progress": progress}
            line = json.dumps({"kind": KIND, **facts, **self._facts}).encode() + b"\n"
            path = self._directory / f"{self._step:012d}.log"
            self._file = path.open("wb", buffering=0)
            _write(self._file, line)
            self._segment = _segment(path, line)
        return self._segment, self._file


def segments(directory: Path) -> list[Segment]:
    """The segments of a log, oldest first; those whose first line is damaged are not.

    They are missed when their steps are wanted.
    """
    found = []
    for path in sorted(directory.glob("*.log")):
        with path.open("rb") as file, contextlib.suppress(*BAD):
            found.append(_segment(path, file.readline()))
    return found


def records(
    directory: Path, after: int, until: int | None = None
) -> Iterator[tuple[Segment, Record]]:
    """The records of the steps from `after` + 1 on, without a hole.

    Args:
        directory: Of the log.
        after: The state to go on from.
        until: The last step that is wanted; None: as many as there are.

    Raises:
        Damaged: Later steps can be read and the next one cannot; it says which.
    """
    step = after
    found = segments(directory)
    for segment, following in itertools.zip_longest(found, found[1:]):
        if following is not None and following.start <= step:
            continue
        if until is not None and step >= until:
            return
        if segment.start > step:
            raise Damaged(
                f"{directory}: the record of step {step + 1} is not there, though "
                f"later ones are: the last good step is {step}"
            )
        for record in _of(segment, step):
            yield segment, record
            step = record.step
            if step == until:
                return


def torn(directory: Path, step: int) -> int:
    """How many bytes follow the record of `step`, the last, and are none."""
    found = segments(directory)
    if not found or found[-1].start > step:
        return 0
    last, kept = found[-1], step - found[-1].start
    with last.path.open("rb") as file:
        file.seek(last.offset + kept * last.size)
        body = file.read(last.size)
    left = last.path.stat().st_size - last.offset - kept * last.size
    return 0 if _unpacked(body, last) is not None else left


def forget_after(directory: Path, step: int) -> None:
    """Drops the records of later steps, and what is left of torn ones."""
    for path in directory.glob("*.log"):
        if path.stem.isdecimal() and int(path.stem) >= step:
            path.unlink()
    for segment in segments(directory):
        end = segment.offset + (step - segment.start) * segment.size
        if segment.path.stat().st_size > end:
            os.truncate(segment.path, end)


def forget_before(directory: Path, step: int) -> None:
    """Drops segments that no state from `step` on needs."""
    for segment in segments(directory):
        count = (segment.path.stat().st_size - segment.offset) // segment.size
        if segment.start < step >= segment.start + count:
            segment.path.unlink()


def _segment(path: Path, line: bytes) -> Segment:
    """The segment that such a first line begins, or one of the errors `BAD`."""
    facts = json.loads(line)
    one = Segment(path, int(facts["start"]), facts, zlib.crc32(line), len(line))
    if facts["kind"] != KIND or one.size <= 0 or not line.endswith(b"\n"):
        raise ValueError("the line is cut off, or of another format")
    return one


def _write(file: IO[bytes], body: bytes) -> None:
    while body:  # a disk that is nearly full takes a part first
        body = body[file.write(body) :]


def _of(segment: Segment, after: int) -> Iterator[Record]:
    """The records of a segment up to its torn tail, from the step `after` + 1 on.

    Raises:
        Damaged: One is bad and a later one good.
    """
    with segment.path.open("rb") as file:
        at, body = max(after - segment.start, 0), b""
        file.seek(segment.offset + at * segment.size)
        for step in range(segment.start + at + 1, 2**63):
            body = file.read(segment.size)
            record = _unpacked(body, segment)
            if record is None or record.step != step:
                break
            yield record
        while len(body) == segment.size:
            body = file.read(segment.size)
            if _unpacked(body, segment) is not None:
                raise Damaged(
                    f"{segment.path}: the record of step {step} is damaged: the last "
                    f"good step is {step - 1}"
                )


def _packed(record: Record, crc: int) -> bytes:
    """The bytes of a record."""
    progress = np.asarray(list(record.progress.values()), "<f8").tobytes()
    bodies = [np.ascontiguousarray(x).tobytes() for x in record.arrays.values()]
    body = b"".join([HEAD.pack(record.step, record.ends), progress, *bodies])
    return body + CRC.pack(zlib.crc32(body, crc))


def _unpacked(body: bytes, segment: Segment) -> Record | None:
    """A record, if these bytes are one of the segment's."""
    inner = body[: -CRC.size]
    if (
        len(body) != segment.size
        or CRC.pack(zlib.crc32(inner, segment.crc)) != (body[-CRC.size :])
    ):
        return None
    step, ends = HEAD.unpack_from(inner)
    names = segment.facts["progress"]
    numbers = np.frombuffer(inner, "<f8", len(names), HEAD.size)
    at, arrays = HEAD.size + 8 * len(names), {}
    for name, kind, shape in segment.forms:
        one = np.frombuffer(inner, kind, math.prod(shape), at)
        arrays[name] = one.reshape(shape)
        at += one.nbytes
    progress = dict(zip(names, numbers.tolist(), strict=True))
    return Record(step, progress, arrays, bool(ends))
