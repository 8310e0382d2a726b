"""Weights from files to devices: of each shard, the part that it holds."""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike


Index = tuple[slice, ...]


def array(
    path: Sequence[str],
    shape: Sequence[int],
    read: Callable[[Any], np.ndarray],
    shardings: Any,
) -> jax.Array:
    """Makes a leaf of the parameters.

    Args:
        path: of its keys.
        shape: of the whole.
        read: what stands at an index, a slice for each dimension.
        shardings: None for the default device, which gets the whole; a
            `jax.sharding.Sharding` for all leaves, or a tree of them as of the
            parameters. Of each device of this host, `read` is asked for its part only.
    """
    sharding: Any = shardings
    if isinstance(shardings, Mapping):
        sharding = reduce(lambda tree, key: tree[key], path, sharding)
    if sharding is None:
        return jnp.asarray(read((slice(None),) * len(shape)))
    return jax.make_array_from_callback(tuple(shape), sharding, read)


def stack(
    shape: Sequence[int],
    dtype: DTypeLike,
    index: Index,
    read: Callable[[int, Index], np.ndarray],
) -> np.ndarray:
    """Reads some layers of a leaf, one at a time, without a second copy of them.

    Args:
        shape: of the whole leaf, layers first.
        dtype: of the result.
        index: into it.
        read: what stands at an index of a layer.
    """
    layers, *rest = index
    out = np.empty([len(range(n)[i]) for n, i in zip(shape, index, strict=True)], dtype)
    for place, layer in zip(out, range(shape[0])[layers], strict=True):
        place[...] = read(layer, tuple(rest))
    return out
