"""Works through rows some at a time, so that memory does not grow with their number."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from eggroll.perturbation import meshes


def map_chunks(
    function: Callable[[PyTree], PyTree], rows: PyTree, chunk: int, multiple: int = 1
) -> PyTree:
    """Maps a function over the leading dimension, `chunk` rows at a time.

    The chunks are evened out, so that few rows are evaluated twice to fill the last
    one; the size of all is a multiple of `multiple`.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    index = chunk_index(count, chunk, multiple)
    if index.shape[0] == 1:
        return function(rows)
    take = lambda at: jax.tree.map(lambda x: x[at], rows)
    out = jax.lax.map(lambda at: function(take(at)), index)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], out)


def sum_chunks(
    function: Callable[[PyTree, Array], PyTree], rows: PyTree, chunk: int
) -> PyTree:
    """Sums a function of chunks of rows; memory does not grow with the rows.

    Args:
        function: takes rows and, for each, whether it counts or only fills up.
        rows: arrays with a leading dimension.
        chunk: how many rows at a time.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    index = chunk_index(count, chunk)
    if index.shape[0] == 1:
        return function(rows, jnp.ones(count, bool))
    take = lambda at: jax.tree.map(lambda x: x[at], rows)
    once = np.arange(index.size).reshape(index.shape) < count

    def add(total: PyTree, at: tuple[Array, Array]) -> tuple[PyTree, None]:
        new = function(take(at[0]), at[1])
        return jax.tree.map(jnp.add, total, new), None

    like = jax.eval_shape(lambda: function(take(index[0]), once[0]))
    zeros = jax.tree.map(
        lambda x: meshes.vary(jnp.zeros(x.shape, x.dtype), meshes.varying(x)), like
    )
    total, _ = jax.lax.scan(add, zeros, (jnp.asarray(index), jnp.asarray(once)))
    return total


def chunk_index(
    count: int, chunk: int, multiple: int = 1
) -> Int[np.ndarray, "chunks size"]:
    """Which rows each chunk takes; the last row again where the last chunk is short."""
    chunk = max(1, min(chunk, count))
    unit = multiple if chunk >= multiple else 1
    chunks = -(-count // (chunk // unit * unit))
    size = -(-count // (chunks * unit)) * unit
    return np.minimum(np.arange(chunks * size), count - 1).reshape(chunks, size)
