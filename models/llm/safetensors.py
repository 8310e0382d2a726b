"""Files of safetensors, without a library: mapped into memory, checked, and written.

Eight bytes of length (little endian), a header in JSON that tells each tensor's dtype,
shape and place in what follows, and their bytes, one after the other. Nothing in such a
file can be executed.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np


DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(bool),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LONGEST_HEADER = 100_000_000  # bytes, as in the reference
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


class Tensor(NamedTuple):
    """A tensor to be written: what it is, and what makes it when its turn comes."""

    dtype: np.dtype
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Maps a file, or all shards of a directory: name to a view of the file.

    Args:
        path: a `.safetensors` file, or a directory with `model.safetensors` or with
            `model.safetensors.index.json` and the shards that it names.

    Raises:
        FileNotFoundError: if there are no weights, or a shard is missing.
        ValueError: if a file is no safetensors, or its header does not fit its content.
    """
    path = Path(path)
    if not path.is_dir():
        return _mapped(path)
    named = files(path)
    if not named:
        raise FileNotFoundError(_none_in(path))
    if named == (SINGLE,):
        return _mapped(path / SINGLE)
    _, *shards = named
    missing = [name for name in shards if not (path / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{path} lacks {len(missing)} of {len(shards)} shards that {INDEX} names: "
            f"{', '.join(missing)}. Fetch them again."
        )
    found: dict[str, np.ndarray] = {}
    for name in shards:
        tensors = _mapped(path / name)
        twice = sorted(found.keys() & tensors)
        if twice:
            raise ValueError(f"{path / name} has {', '.join(twice)} once more.")
        found |= tensors
    return found


def files(directory: Path) -> tuple[str, ...]:
    """Names the files of weights that a directory has, or should by its index.

    Returns:
        `model.safetensors`, or the index and the shards that it names, there or not;
        nothing if there is neither.

    Raises:
        ValueError: if the index is damaged.
    """
    if (directory / SINGLE).exists():
        return (SINGLE,)
    index = directory / INDEX
    return (INDEX, *_shards(index)) if index.exists() else ()


def write(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Writes a file, one tensor at a time; it takes its name when it is whole.

    Args:
        path: of the file.
        tensors: in the order in which they are written.
        metadata: for the header.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, one in tensors.items():
        begin, end = end, end + one.bytes
        header[name] = {
            "dtype": NAMES[one.dtype],
            "shape": list(one.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that tensors are aligned
    whole = path.with_name(f".{path.name}.partial")
    with whole.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for one in tensors.values():
            array = np.ascontiguousarray(one.make(), one.dtype)
            file.write(array.reshape(-1).view(np.uint8).data)
    whole.replace(path)


def _none_in(path: Path) -> str:
    pickles = sorted(x.name for x in path.iterdir() if x.suffix in PICKLES)
    if pickles:
        return (
            f"{path} has no safetensors, only pickles, which can run anything when "
            f"read: {', '.join(pickles)}. Convert them where you trust them: "
            "save_pretrained(..., safe_serialization=True)."
        )
    return f"{path} has no weights: neither {SINGLE} nor {INDEX}."


def _shards(path: Path) -> list[str]:
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
        shards = sorted(set(names))
        wrong = [x for x in shards if Path(x).name != x]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no index of safetensors: {error!r}.") from error
    if wrong:
        raise ValueError(f"{path} names files elsewhere: {', '.join(wrong)}.")
    return shards


def _mapped(path: Path) -> dict[str, np.ndarray]:
    size = path.stat().st_size
    with path.open("rb") as file:
        start, first = file.read(8), file.read(1)
        if first != b"{" and (start[:2] == b"PK" or start[:1] == b"\x80"):
            raise ValueError(
                f"{path} is a pickle, whatever its name, and reading it could run "
                "anything. Convert it to safetensors where you trust it."
            )
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, LONGEST_HEADER):
            raise ValueError(
                f"{path} is no safetensors, or cut short: its header should take "
                f"{length} of {size} bytes."
            )
        text = (first + file.read(length - 1)) if length else b""
    places = _places(path, text, size - 8 - length)
    if size == 8 + length:  # nothing that could be mapped
        return {name: np.empty(shape, dtype) for name, (dtype, shape, _) in places}
    data = np.memmap(path, np.uint8, "r", offset=8 + length)
    return {
        name: data[a:b].view(dtype).reshape(shape)
        for name, (dtype, shape, (a, b)) in places
    }


def _places(path: Path, text: bytes, size: int) -> Iterable[tuple[str, tuple]]:
    """Checks a header: the tensors fill the file, without holes or overlaps."""
    try:
        header = json.loads(text, object_pairs_hook=_unique)
        header.pop("__metadata__", None)
        places = {name: _place(one) for name, one in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} has a header that cannot be read: {error}."
        ) from error
    end = 0
    for name, (dtype, shape, (a, b)) in sorted(places.items(), key=lambda x: x[1][2]):
        if a != end or b - a != math.prod(shape) * dtype.itemsize:
            raise ValueError(
                f"{path} has a header that lies: {name} of shape {shape}, {dtype}, is "
                f"said to take the bytes {a} to {b}, after {end}."
            )
        end = b
    if end != size:
        raise ValueError(
            f"{path} is cut short or damaged: its tensors take {end} bytes, and there "
            f"are {size}."
        )
    return places.items()


def _place(one: Any) -> tuple[np.dtype, tuple[int, ...], tuple[int, int]]:
    if one["dtype"] not in DTYPES:
        raise ValueError(f"tensors of type {one['dtype']} are not supported")
    shape, (a, b) = one["shape"], one["data_offsets"]
    if not all(type(x) is int and x >= 0 for x in (*shape, a, b)):
        raise ValueError(f"no shape or place: {one}")
    return DTYPES[one["dtype"]], tuple(shape), (a, b)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found
