"""Checksums of arrays that do not depend on where their parts are.

A digest is a sum, modulo 2^32 and with two seeds, of each word mixed with its position.
Sums of integers have no order: the same comes out of one device and of parts on many
hosts, of which no part has to be moved. Of one word that differs, the digest differs.
"""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


_SEEDS = (0x9E3779B9, 0x7F4A7C15)
_FEW = 2**16  # numbers, for which a program is not worth its compilation


def digests(state: PyTree) -> dict[str, str]:
    """The type, shape and digest of each array of a pytree, by its path."""
    return {
        jax.tree_util.keystr(path): digest(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def digest(array: jax.Array | np.ndarray) -> str:
    """The type, shape and digest of an array, or of random keys."""
    name = f"{array.dtype}{list(array.shape)}"
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    is_whole = not isinstance(array, jax.Array) or (
        array.is_fully_addressable or array.is_fully_replicated
    )
    if is_whole and array.size <= _FEW:
        with np.errstate(over="ignore"):
            sums = _sums(np, np.asarray(array))
    else:  # or of which other processes have parts
        sums = _sums_of_parts(array)
    return name + "".join(f"{int(one):08x}" for one in sums)


@jax.jit
def _sums_of_parts(array: jax.Array) -> list[jax.Array]:
    return _sums(jnp, array)


def _sums(xp: ModuleType, array: Any) -> list[Any]:
    """The sums of an array's words, each mixed with its position."""
    words = _words(xp, array)
    places = [mixed(positions(xp, words.shape) + np.uint32(seed)) for seed in _SEEDS]
    return [xp.sum(mixed(words ^ one), dtype=np.uint32) for one in places]


def positions(xp: ModuleType, shape: tuple[int, ...]) -> Any:
    """The number of each element of an array, modulo 2^32; `xp` is NumPy or JAX's."""
    position = xp.zeros((1,) * len(shape), np.uint32)
    for d, n in enumerate(shape):
        along = xp.arange(n, dtype=np.uint32).reshape(
            [n if i == d else 1 for i in range(len(shape))]
        )
        position = position * np.uint32(n % 2**32) + along
    return position


def _words(xp: ModuleType, array: Any) -> Any:
    """The bits of an array's elements, as unsigned numbers of 32 bits."""
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    bits = 8 * array.dtype.itemsize
    if np.issubdtype(array.dtype, np.complexfloating):
        array = xp.stack([array.real, array.imag], axis=-1)
        bits //= 2
    if bits == 64:
        low = _bits(xp, array, np.dtype(np.uint64))
        halves = [low & np.uint64(2**32 - 1), low >> np.uint64(32)]
        return xp.stack(halves, axis=-1).astype(np.uint32)
    return _bits(xp, array, np.dtype(f"uint{bits}")).astype(np.uint32)


def _bits(xp: ModuleType, array: Any, kind: np.dtype) -> Any:
    if xp is np:
        return np.ascontiguousarray(array).view(kind).reshape(array.shape)
    return jax.lax.bitcast_convert_type(array, kind)


def mixed(x: Any) -> Any:
    """Spreads each bit of a word over all of it, reversibly.

    References:
        The finaliser of MurmurHash3 (public domain), by A. Appleby.
    """
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x85EBCA6B)
    x = x ^ (x >> np.uint32(13))
    x = x * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))
