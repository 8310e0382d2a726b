"""Tensors out of a `.pth` file of PyTorch, of which no code is run.

Such a file is a zip with a pickle in it (`data.pkl`) that lists tensors, and the bytes
of each storage beside it (`data/0`, ...), which are mapped from the file, not read.
"""

import math
import struct
import zipfile
from pathlib import Path

import numpy as np

from models.llm.pth_pickle import Tensor, tensors_of


LONGEST_PICKLE = 1 << 24  # bytes; 2,000 tensors take less than 1 << 19
LOCAL_HEADER = 30  # bytes before an entry's name, in a zip


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Maps the tensors of a `.pth` file, by name; nothing is read before it is used.

    Raises:
        ValueError: for a file that is no such zip, a pickle that does anything but list
            tensors of floating-point numbers, and a record that does not fit its
            tensors.
    """
    data, entries = _opened(Path(path))
    pickles = [x for x in entries if x.count("/") == 1 and x.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(
            f"{path} is a zip, but not as torch.save writes one: expected one data.pkl "
            f"in a folder of its own, found {len(pickles)}"
        )
    root, program = pickles[0].removesuffix("data.pkl"), entries[pickles[0]]
    order = entries.get(f"{root}byteorder")
    if order is not None and _record(data, order).tobytes() != b"little":
        raise ValueError(f"{path} holds numbers of another byte order than little")
    if program.file_size > LONGEST_PICKLE:
        raise ValueError(
            f"the list of tensors in {path} must take {LONGEST_PICKLE} bytes at most, "
            f"got {program.file_size}"
        )
    listed = tensors_of(_record(data, program).tobytes(), str(path))
    return {
        name: _mapped(data, entries, root, name, tensor)
        for name, tensor in listed.items()
    }


def _mapped(
    data: np.memmap, entries: dict, root: str, name: str, tensor: Tensor
) -> np.ndarray:
    """Returns a view of the bytes of a tensor, if its record is as long as said."""
    storage, where = tensor.storage, f"{data.filename}: tensor {name[:80]!r}"
    entry = entries.get(f"{root}data/{storage.record}")
    if entry is None:
        raise ValueError(f"{where} lies in a record {storage.record[:80]!r}: not there")
    expected = storage.entries * storage.dtype.itemsize
    if entry.file_size != expected:
        raise ValueError(
            f"{where} needs a record of {expected} bytes, got {entry.file_size}"
        )
    flat = _record(data, entry)[:expected].view(storage.dtype)
    if not math.prod(tensor.shape):
        return np.zeros(tensor.shape, storage.dtype)
    strides = [s * storage.dtype.itemsize for s in tensor.strides]
    return np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.shape, strides, writeable=False
    )


def _record(data: np.memmap, entry: zipfile.ZipInfo) -> np.ndarray:
    """Returns the bytes of an entry of the zip, which must not be compressed."""
    stored = entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1
    if not stored or entry.compress_size != entry.file_size:
        raise ValueError(
            f"{data.filename}: {entry.filename[:80]!r} is compressed or encrypted, "
            f"which torch.save never does"
        )
    header = data[entry.header_offset :][:LOCAL_HEADER].tobytes()
    if len(header) == LOCAL_HEADER and header.startswith(b"PK\3\4"):
        name, extra = struct.unpack("<HH", header[-4:])
        start = entry.header_offset + LOCAL_HEADER + name + extra
        if start + entry.file_size <= data.size:
            return data[start : start + entry.file_size]
    raise ValueError(
        f"{data.filename} is truncated or damaged: {entry.filename[:80]!r} lies beyond "
        f"its {data.size} bytes, or where it should there is something else"
    )


def _opened(path: Path) -> tuple[np.memmap, dict[str, zipfile.ZipInfo]]:
    """Maps the file, and lists the entries of the zip."""
    with path.open("rb") as file:
        start = file.read(2)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {x.filename: x for x in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        if start == b"PK":
            what = f"a truncated or damaged zip ({error})"
        elif start.startswith(b"\x80"):
            what = "a bare pickle, as torch wrote it before 1.6, which could run code"
        else:
            what = "something else"
        raise ValueError(
            f"{path} must be a zip as torch.save writes one, got {what}: fetch it "
            f"again, or have it written as safetensors by whoever trusts it"
        ) from None
    return np.memmap(path, np.uint8, "r"), entries
