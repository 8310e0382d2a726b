"""Parameters of any run as a file of safetensors, by the paths of their leaves.

Eight bytes of length (little endian), a header in JSON that tells each tensor's dtype,
shape and place in what follows, and their bytes, one after the other.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

from eggroll.errors import UserError
from eggroll.perturbation.layout import is_array, named_leaves


DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "bool": "BOOL",
    **{f"int{n}": f"I{n}" for n in (8, 16, 32, 64)},
    **{f"uint{n}": f"U{n}" for n in (8, 16, 32, 64)},
}


def write(path: Path, params: PyTree, facts: Mapping[str, str]) -> int:
    """Writes the arrays of a pytree, one at a time.

    Args:
        path: of the file.
        params: with names such as "layers/0/kernel" of their leaves.
        facts: to be noted in the header.

    Returns:
        How many there are.

    Raises:
        UserError: one is of a type that the format lacks.
    """
    named = {name: x for name, x in named_leaves(params) if is_array(x)}
    header: dict[str, Any] = {"__metadata__": dict(facts)}
    end = 0
    for name, x in named.items():
        if str(x.dtype) not in DTYPES:
            raise UserError(
                f"{name} is {x.dtype}, and safetensors have no such type: "
                f"{', '.join(DTYPES)}"
            )
        begin, end = end, end + x.size * x.dtype.itemsize
        header[name] = {
            "dtype": DTYPES[str(x.dtype)],
            "shape": list(x.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that tensors are aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for x in named.values():
            file.write(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
    return len(named)
