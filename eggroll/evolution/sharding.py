"""Spreads a population over devices, and the model over those of its other axes.

One mesh, with an axis `population` and perhaps others, such as `model`: each device
evaluates and sums its own members. One device is the smallest mesh. The axis of the
population is taken by hand (`shard_map`); how the model lies on the others is asked
for, and XLA sees to it: factors are thin and the same on all, totals as their leaves.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree


AXIS = "population"
BY_ROW = PartitionSpec(AXIS)


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
    function: Callable[..., PyTree],
    mesh: Mesh | None,
    out: Callable[[PyTree], PyTree] | None = None,
    *,
    rows: PartitionSpec = BY_ROW,
    results: Any = BY_ROW,
) -> Callable[..., PyTree]:
    """Runs `function(shared, rows)` on every device's part of the rows.

    Args:
        function: takes a pytree that all devices share, and one whose arrays have a
            leading dimension that is divided among the devices. Returns arrays with
            such a dimension, or what `out` makes something of.
        mesh: over which to spread; None for the current device alone.
        out: what becomes of a device's results, where there are several.
        rows: how the rows lie over the devices.
        results: how the results do.

    Raises:
        ValueError: within a `jax.shard_map` or `jax.pmap` of the caller's, or where the
            population's axis is explicit in `jax.set_mesh`.
    """
    if mesh is None:
        return function
    _refuse_taken()
    if mesh.shape[AXIS] == 1 and mesh.size > 1:
        # XLA cannot partition what is sharded within an axis of one device.
        return function

    def local(shared: PyTree, rows: PyTree) -> PyTree:
        own = function(shared, rows)
        return own if out is None else out(own)

    return jax.shard_map(
        local,
        mesh=_auto(mesh),
        in_specs=(PartitionSpec(), rows),
        out_specs=results,
        axis_names={AXIS},
        check_vma=False,  # accumulators start as plain zeros on every device
    )


def constrained(x: Array, mesh: Mesh | None, spec: PartitionSpec | None) -> Array:
    """The same array, which lies so over the axes of the model; None: anyhow."""
    if mesh is None or spec is None or mesh.size == mesh.shape[AXIS]:
        return x
    here = jax.sharding.get_abstract_mesh()
    is_within = AXIS in here.manual_axes  # where the mesh is that of the context
    target = spec if is_within else NamedSharding(_auto(mesh), spec)
    if AxisType.Explicit in _auto(mesh).axis_types:
        return jax.sharding.reshard(x, target)
    return jax.lax.with_sharding_constraint(x, target)


def replicated(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The same arrays, whole on every device of the model."""
    return jax.tree.map(lambda x: constrained(x, mesh, PartitionSpec()), tree)


def _refuse_taken() -> None:
    """Refuses a mesh around this that has taken the devices already.

    Raises:
        ValueError: saying what to do.
    """
    here = jax.sharding.get_abstract_mesh()
    if here.manual_axes:
        raise ValueError(
            f"a strategy with a mesh spreads its population itself, which cannot be "
            f"done within jax.shard_map or jax.pmap over {here.manual_axes}: there, "
            f"leave mesh= away, and each device evaluates a population on its own "
            f"data; or call the strategy outside"
        )
    if AXIS in here.explicit_axes:
        raise ValueError(
            f"the axis {AXIS!r} of the mesh in jax.set_mesh is Explicit: fitness would "
            f"have a sharding in its type, which the update does not know; make that "
            f"axis Auto: jax.make_mesh(..., axis_types=...) (others may stay Explicit)"
        )


def _auto(mesh: Mesh) -> Mesh:
    """The same mesh with a population of which types say nothing."""
    types = zip(mesh.axis_names, mesh.axis_types, strict=True)
    types = (AxisType.Auto if name == AXIS else kind for name, kind in types)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=tuple(types))
