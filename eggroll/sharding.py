"""Spreads a population over devices.

One mesh, with an axis `population` (and later `model`): each device evaluates and sums
its own members, and one `psum` adds the sums up. One device is the smallest mesh.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec
from jaxtyping import Array, Int, PyTree


AXIS = "population"


def population_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh that spreads the population over devices (all, by default)."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def devices_of(mesh: Mesh | None) -> int:
    """Over how many devices a mesh spreads the population.

    Raises:
        ValueError: if the mesh has no axis named `population`.
    """
    if mesh is None:
        return 1
    if AXIS not in mesh.shape:
        raise ValueError(
            f"the mesh needs an axis named {AXIS!r}, got axes {tuple(mesh.shape)}; "
            f"eggroll.population_mesh() makes one"
        )
    return mesh.shape[AXIS]


def spread(
    function: Callable[..., PyTree], mesh: Mesh | None, *, reduce: bool = False
) -> Callable[..., PyTree]:
    """Runs `function(shared, rows)` on every device's part of the rows.

    Args:
        function: takes a pytree that all devices share, and one whose arrays have a
            leading dimension that is divided among the devices. Returns arrays with
            such a dimension, or, with `reduce`, arrays to be summed over devices.
        mesh: over which to spread; None for the current device alone.
        reduce: sum the results over devices.
    """
    if mesh is None:
        return function

    def local(shared: PyTree, rows: PyTree) -> PyTree:
        out = function(shared, rows)
        return jax.lax.psum(out, AXIS) if reduce else out

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
        out_specs=PartitionSpec() if reduce else PartitionSpec(AXIS),
        axis_names={AXIS},
        check_vma=False,  # accumulators start as plain zeros on every device
    )


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
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
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
