"""RWKV-7's published tensors: read to parameters, and written back by the same names.

A tensor is called `emb.weight` or, in a block, `blocks.3.att.receptance.weight`. Linear
maps are stored as (out, in) but for the thin pairs w1, w2, ..., which are (in, out) as
all are here; vectors come as [width] or as [1, 1, width].
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.llm import placement, pth, safetensors
from models.llm.placement import Index
from models.llm.rwkv7_config import RWKV7Config, shapes


OUTSIDE = {
    "embed": "emb.weight",
    "embed_norm": "blocks.0.ln0.weight",
    "embed_norm_bias": "blocks.0.ln0.bias",
    "norm": "ln_out.weight",
    "norm_bias": "ln_out.bias",
    "head": "head.weight",
}
IN_BLOCK = {
    "time_norm": "ln1.weight",
    "time_norm_bias": "ln1.bias",
    "channel_norm": "ln2.weight",
    "channel_norm_bias": "ln2.bias",
    "head_norm": "att.ln_x.weight",
    "head_norm_bias": "att.ln_x.bias",
    "r": "att.receptance.weight",
    "k": "att.key.weight",
    "v": "att.value.weight",
    "o": "att.output.weight",
    "expand": "ffn.key.weight",
    "contract": "ffn.value.weight",
    "x_c": "ffn.x_k",
}
TURNED = ("r", "k", "v", "o", "expand", "contract", "head")  # stored as (out, in)
UNUSED = ("v0", "v1", "v2")  # of layer 0
LISTED = 12  # the most names of a kind in a message


def read(
    path: str | Path, dtype: Any = None, shardings: Any = None
) -> tuple[RWKV7Config, dict]:
    """Reads a checkpoint: `.pth` (of which no code is run), else safetensors.

    See `from_tensors`; the file is mapped into memory, and what no device of this host
    holds is not read.

    Raises:
        ValueError: as `from_tensors`, `pth.read` and `safetensors.read` do.
    """
    return from_tensors(mapped(path), dtype, shardings)


def describe(path: str | Path) -> RWKV7Config:
    """Reads the sizes of a checkpoint's model, and none of its weights.

    Raises:
        ValueError: as `read` does.
    """
    return checked(mapped(path))


def mapped(path: str | Path) -> dict[str, np.ndarray]:
    """Maps the tensors of a file, by name."""
    return (pth if Path(path).suffix == ".pth" else safetensors).read(path)


def write(path: str | Path, config: RWKV7Config, params: Mapping[str, Any]) -> None:
    """Writes a checkpoint as safetensors, with the published names."""
    tensors = {
        name: safetensors.Tensor(x.dtype, x.shape, lambda x=x: x)
        for name, x in to_tensors(config, params).items()
    }
    safetensors.write(Path(path), tensors, {})


def checked(tensors: Mapping[str, Any]) -> RWKV7Config:
    """Reads off the shapes of a checkpoint's tensors what model they are.

    Raises:
        ValueError: if tensors are missing, unknown or of another shape; all are named.
    """
    config = _config(tensors)
    wanted = {
        name: shape
        for name, shape, _, _ in _records(replace(config, layer0_values=True))
    }
    optional = {_name(name, 0) for name in UNUSED}
    wrong = [
        _listed("missing", sorted(wanted.keys() - optional - tensors.keys())),
        _listed("not of RWKV-7", sorted(tensors.keys() - wanted.keys())),
        _listed(
            "of another shape",
            [
                f"{name} {_plain(tensors[name].shape)} instead of {_plain(shape)}"
                for name, shape in wanted.items()
                if name in tensors and _plain(tensors[name].shape) != _plain(shape)
            ],
        ),
    ]
    if any(wrong):
        raise ValueError(
            f"these are not the tensors of an RWKV-7 model of {config.layers} layers "
            f"of width {config.width}: {'; '.join(x for x in wrong if x)}"
        )
    return config


def from_tensors(
    tensors: Mapping[str, Any], dtype: Any = None, shardings: Any = None
) -> tuple[RWKV7Config, dict]:
    """Makes parameters of a checkpoint's tensors.

    Args:
        tensors: arrays by their published names.
        dtype: of the parameters; None for the widest of the tensors' types, in which
            all are kept as they are.
        shardings: a `jax.sharding.Sharding` for all parameters, or a tree of them as
            of the parameters.

    Returns:
        The `RWKV7Config` that the shapes tell, and the parameters.

    Raises:
        ValueError: as `checked` does.
    """
    config = checked(tensors)
    if dtype is None:
        dtype = jnp.result_type(*{x.dtype for x in tensors.values()})
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    sizes = shapes(config)
    stacked = sizes.pop("layers")

    def one(name: str, shape: Sequence[int], layer: int | None, index: Index) -> Any:
        tensor = tensors.get(_name(name, layer))
        if tensor is None:
            return np.broadcast_to(np.zeros((), dtype), shape)[index]
        tensor = np.asarray(tensor)
        tensor = (tensor.T if name in TURNED else tensor).reshape(shape)
        return np.array(tensor[index], dtype)

    def whole(name: str, shape: Sequence[int]) -> jax.Array:
        read = lambda index: one(name, shape, None, index)
        return placement.array((name,), shape, read, shardings)

    def stack(name: str, shape: Sequence[int]) -> jax.Array:
        layer = lambda i, index: one(name, shape[1:], i, index)
        read = lambda index: placement.stack(shape, dtype, index, layer)
        return placement.array(("layers", name), shape, read, shardings)

    params: dict = {name: whole(name, shape) for name, shape in sizes.items()}
    params["layers"] = {name: stack(name, shape) for name, shape in stacked.items()}
    return config, params


def to_tensors(config: RWKV7Config, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Makes a checkpoint's tensors of parameters: the inverse of `from_tensors`.

    Vectors come as [1, 1, width] where the published files have them so.
    """
    params = jax.tree.map(np.asarray, params)
    tensors = {}
    for record, shape, name, layer in _records(config):
        leaf = params[name] if layer is None else params["layers"][name][layer]
        leaf = leaf.T if name in TURNED else leaf
        tensors[record] = leaf.reshape(shape)
    return tensors


def _config(tensors: Mapping[str, Any]) -> RWKV7Config:
    """Reads the sizes off the shapes of some tensors, which must be there."""

    def sizes(*names: str, rank: int = 2) -> tuple[int, ...]:
        found = next((x for x in names if x in tensors), None)
        if found is None:
            raise ValueError(
                f"an RWKV-7 checkpoint has a tensor {names[0]}, this has "
                f"{_listed('only', sorted(tensors)) or 'none at all'}; of RWKV "
                f"versions 4 to 6, and of other formats, nothing is read here"
            )
        if len(shape := tensors[found].shape) != rank or not all(shape):
            raise ValueError(
                f"{found} of an RWKV-7 checkpoint is a matrix, got {_plain(shape)}"
            )
        return tuple(shape)

    vocabulary, width = sizes("emb.weight")
    heads, size = sizes(_name("r_k", 0))
    if heads * size != width:
        raise ValueError(
            f"{_name('r_k', 0)} has {heads} × {size} entries, which must be as many "
            f"as the width {width} of emb.weight"
        )
    numbers = {x.split(".")[1] for x in tensors if x.startswith("blocks.")}
    layers = 1 + max(int(x[:9]) for x in numbers if x.isascii() and x.isdecimal())
    if layers > len(tensors):
        raise ValueError(f"there are tensors of a block {layers - 1}, too few for that")
    has_values = [_name(name, 0) in tensors for name in UNUSED]
    lone = layers == 1 and not any(has_values)
    return RWKV7Config(
        width,
        layers,
        heads,
        feedforward=sizes(_name("expand", 0))[0],
        vocabulary=vocabulary,
        decay_rank=sizes(_name("w1", 0))[1],
        rate_rank=sizes(_name("a1", 0))[1],
        value_rank=1 if lone else sizes(_name("v1", 1), _name("v1", 0))[1],
        gate_rank=sizes(_name("g1", 0))[1],
        layer0_values=all(has_values),
    )


def _name(name: str, layer: int | None) -> str:
    """Returns the published name of a leaf, of one layer if it is in the stack."""
    if layer is None:
        return OUTSIDE[name]
    return f"blocks.{layer}.{IN_BLOCK.get(name, f'att.{name}')}"


def _records(
    config: RWKV7Config,
) -> Iterator[tuple[str, tuple[int, ...], str, int | None]]:
    """Yields of each tensor its name and shape in a file, the leaf and its layer."""
    sizes = shapes(config)
    stack = sizes.pop("layers")
    for name, shape in sizes.items():
        yield _name(name, None), _stored(name, shape, config), name, None
    for layer in range(config.layers):
        for name, (_, *shape) in stack.items():
            if layer or name not in UNUSED or config.layer0_values:
                yield _name(name, layer), _stored(name, shape, config), name, layer


def _stored(name: str, shape: Sequence[int], config: RWKV7Config) -> tuple[int, ...]:
    if name in TURNED:
        return tuple(reversed(shape))
    if name == "r_k":
        return config.heads, config.head_size
    if name.startswith("x_") or name in ("w0", "a0", "v0", "k_k", "k_a"):
        return 1, 1, *shape
    return tuple(shape)


def _plain(shape: Sequence[int]) -> tuple[int, ...]:
    """Leaves out axes of size 1, in which files differ."""
    return tuple(size for size in shape if size != 1)


def _listed(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{what}: {', '.join(names[:LISTED])}{more}"
