"""GGUF files, versions 2 and 3: what they say and where their tensors lie.

A file is a header (magic, version, numbers of tensors and of metadata), metadata as
pairs of a key and a typed value, one record a tensor (name, dimensions from the
fastest to the slowest, type, offset), and the aligned data; all little-endian
(github.com/ggml-org/ggml, docs/gguf.md). Files come from anywhere: every length,
count and offset is held against the size of the file before it is used, so that a
damaged one is refused in a sentence and costs no more than reading it once.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from models.llm.gguf_blocks import OTHERS, STORAGES, Storage, dequantise


MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32  # of the data where no `general.alignment` says otherwise
MOST_DIMENSIONS = 4
# The numbers among the types of values, as `struct` and NumPy call them both.
NUMBERS = {
    **{0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i"},
    **{6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"},
}
TEXT, ARRAY = 8, 9
SMALLEST_TEXT = 8  # bytes: its length
SMALLEST_PAIR = SMALLEST_TEXT + 4 + 1  # an empty key, a type, a byte
SMALLEST_RECORD = SMALLEST_TEXT + 4 + 8 + 4 + 8  # one dimension


class Record(NamedTuple):
    """Where a tensor lies: shape in C order, type, first byte, number of bytes."""

    shape: tuple[int, ...]
    storage: Storage
    start: int
    size: int


@dataclass(frozen=True)
class File:
    """A GGUF file whose every tensor is known to lie within it.

    Attributes:
        path: where it is.
        metadata: numbers, strings, flags, lists of strings, NumPy arrays of numbers.
        records: where each tensor lies.
        data: the whole file, memory-mapped.
    """

    path: str
    metadata: Mapping[str, Any]
    records: Mapping[str, Record]
    data: UInt8[np.ndarray, " bytes"]

    def tensor(
        self, name: str, index: tuple[slice, ...] = ()
    ) -> Float32[np.ndarray, "..."]:
        """A tensor's numbers, dequantised.

        Args:
            name: of the tensor.
            index: a slice for each dimension: of what is left out, only the rest of
                the blocks in which rows are cut is read; nothing takes the whole.
        """
        record = self.records[name]
        raw = self.data[record.start : record.start + record.size]
        if not index:
            return dequantise(raw, record.storage, record.shape)
        *rows, columns = index
        weights, (*outer, inner) = record.storage.weights, record.shape
        start, stop, _ = columns.indices(inner)
        first, last = start // weights, -(-stop // weights)
        blocks = raw.view(record.storage.layout).reshape(*outer, inner // weights)
        some = blocks[(*rows, slice(first, last))]
        numbers = record.storage.decode(some.reshape(-1)).reshape(*some.shape[:-1], -1)
        return numbers[..., start - first * weights : stop - first * weights]

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """A value of the metadata.

        Args:
            key: its name.
            kind: int, float (whole numbers pass), str, bool, list (of strings) or
                np.ndarray (of numbers).
            default: stands for a missing value; None makes it an error.

        Raises:
            ValueError: the value is missing or of another kind.
        """
        value = self.metadata.get(key, default)
        if value is None:
            raise ValueError(f"{self.path}: the metadata lack {key}")
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind:
            raise ValueError(
                f"{self.path}: {key} should be {kind.__name__}, "
                f"is {type(value).__name__}"
            )
        return value


def read(path: str | Path) -> File:
    """Opens a file and checks all of it but the numbers.

    Raises:
        ValueError: the file is missing, damaged, no GGUF of version 2 or 3, or has a
            type of tensor that is not read. The message is one sentence.
    """
    path = str(path)
    if not Path(path).is_file():
        raise ValueError(f"{path}: there is no such file")
    if not Path(path).stat().st_size:
        raise ValueError(f"{path}: the file is empty")
    data = np.memmap(path, np.uint8, "r")
    cursor = Cursor(path, data.data)
    pairs, tensors = header(cursor)
    metadata = {}
    for _ in range(pairs):
        key = cursor.text("the name of a value")
        if key in metadata:
            raise cursor.error(f"the value {key} is there twice")
        metadata[key] = cursor.value(cursor.number("I", key), key)
    file = File(path, metadata, {}, data)
    alignment = file.get("general.alignment", int, ALIGNMENT)
    if alignment <= 0 or alignment % 8:
        raise cursor.error(f"general.alignment is {alignment}, no multiple of 8")
    found = [record(cursor) for _ in range(tensors)]
    return File(path, metadata, placed(cursor, found, alignment), data)


def header(cursor: "Cursor") -> tuple[int, int]:
    """The numbers of metadata and of tensors, which the file has room for."""
    begin = bytes(cursor.data[: len(MAGIC)])
    if begin != MAGIC:
        raise cursor.error(f"no GGUF file: it begins with {begin!r}, not {MAGIC!r}")
    cursor.take(len(MAGIC), "the magic")
    version = cursor.number("I", "the version")
    if version not in VERSIONS:
        big = version and not version & 0xFFFF
        what = "big-endian" if big else f"of version {version}"
        raise cursor.error(f"the file is {what}; little-endian 2 and 3 are read")
    tensors = cursor.number("Q", "the number of tensors")
    pairs = cursor.number("Q", "the number of values")
    cursor.room(pairs * SMALLEST_PAIR, f"{pairs} values")
    cursor.room(tensors * SMALLEST_RECORD, f"{tensors} tensors")
    return pairs, tensors


class Unplaced(NamedTuple):
    """What a file says of a tensor: the offset counts from the start of the data."""

    name: str
    shape: tuple[int, ...]
    storage: Storage
    offset: int


def record(cursor: "Cursor") -> Unplaced:
    """Reads what the file says of its next tensor."""
    name = cursor.text("the name of a tensor")
    dimensions = cursor.number("I", name)
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise cursor.error(
            f"{name} has {dimensions} dimensions; 1 to {MOST_DIMENSIONS} are read"
        )
    shape = tuple(cursor.number("Q", name) for _ in range(dimensions))[::-1]
    kind, offset = cursor.number("I", name), cursor.number("Q", name)
    if kind not in STORAGES:
        known = ", ".join(one.name for one in STORAGES.values())
        raise cursor.error(
            f"{name} is of type {OTHERS.get(kind, kind)}; {known} are read"
        )
    storage = STORAGES[kind]
    if 0 in shape or shape[-1] % storage.weights:
        raise cursor.error(
            f"{name} of shape {shape} has no whole blocks of {storage.name}, "
            f"{storage.weights} weights each"
        )
    return Unplaced(name, shape, storage, offset)


def placed(
    cursor: "Cursor", found: list[Unplaced], alignment: int
) -> dict[str, Record]:
    """Where the tensors lie, none outside the file and none within another."""
    base = -(-cursor.at // alignment) * alignment
    records, end, before = {}, base, "the header"
    for name, shape, storage, offset in sorted(found, key=lambda one: one.offset):
        size = math.prod(shape) // storage.weights * storage.layout.itemsize
        start = base + offset
        if name in records:
            raise cursor.error(f"the tensor {name} is there twice")
        if offset % alignment:
            raise cursor.error(f"{name} at {offset} is not aligned to {alignment}")
        if start < end:
            raise cursor.error(f"{name} overlaps {before}")
        if start + size > len(cursor.data):
            raise cursor.error(
                f"the file is truncated: {name} ends at byte {start + size} "
                f"of {len(cursor.data)}"
            )
        records[name] = Record(shape, storage, start, size)
        end, before = start + size, name
    return records


@dataclass
class Cursor:
    """A place in a file, which never moves past its end."""

    path: str
    data: memoryview
    at: int = 0

    def error(self, what: str) -> ValueError:
        return ValueError(f"{self.path}: {what:.200}")

    def room(self, count: int, what: str) -> None:
        """Refuses what does not fit into the rest of the file."""
        if count > len(self.data) - self.at:
            raise self.error(
                f"the file is truncated or damaged: {what} at byte {self.at} "
                f"needs {count} bytes of the {len(self.data) - self.at} left"
            )

    def take(self, count: int, what: str) -> int:
        """Where the next bytes begin, having gone past them."""
        self.room(count, what)
        self.at += count
        return self.at - count

    def number(self, kind: str, what: str) -> Any:
        """The next number, of a kind that `struct` knows."""
        at = self.take(struct.calcsize(f"<{kind}"), what)
        return struct.unpack_from(f"<{kind}", self.data, at)[0]

    def text(self, what: str) -> str:
        """The next string: its length and its bytes."""
        length = self.number("Q", what)
        at = self.take(length, what)
        try:
            return str(self.data[at : at + length], "utf-8")
        except UnicodeDecodeError:
            raise self.error(f"{what} at byte {at} is no UTF-8") from None

    def value(self, kind: int, key: str) -> Any:
        """The next value of the metadata, of a given type."""
        if kind in NUMBERS:
            return self.number(NUMBERS[kind], key)
        if kind == TEXT:
            return self.text(key)
        if kind != ARRAY:
            raise self.error(f"{key} is of type {kind}, which does not exist")
        inner, length = self.number("I", key), self.number("Q", key)
        if inner == TEXT:
            self.room(length * SMALLEST_TEXT, f"{key} of {length} strings")
            return [self.text(key) for _ in range(length)]
        if inner not in NUMBERS:
            raise self.error(f"{key} is an array of type {inner}, which is not read")
        dtype = np.dtype("<" + NUMBERS[inner])
        at = self.take(length * dtype.itemsize, f"{key} of {length} numbers")
        return np.frombuffer(self.data, dtype, length, at).copy()
