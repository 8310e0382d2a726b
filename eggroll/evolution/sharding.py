"""Spreads a population over devices.

One mesh, with an axis `population` (and later `model`): each device evaluates and sums
its own members, and one `psum` adds the sums up. One device is the smallest mesh.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec
from jaxtyping import PyTree


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

    Raises:
        ValueError: within a `jax.shard_map` or `jax.pmap` of the caller's, or where the
            population's axis is explicit in `jax.set_mesh`.
    """
    if mesh is None:
        return function
    if taken := jax.sharding.get_abstract_mesh().manual_axes:
        raise ValueError(
            f"a strategy with a mesh spreads its population itself, which cannot be "
            f"done within jax.shard_map or jax.pmap over {taken}: there, leave mesh= "
            f"away, and each device evaluates a population on its own data; or call "
            f"the strategy outside"
        )
    if AXIS in jax.sharding.get_abstract_mesh().explicit_axes:
        raise ValueError(
            f"the axis {AXIS!r} of the mesh in jax.set_mesh is Explicit: fitness would "
            f"have a sharding in its type, which the update does not know; make that "
            f"axis Auto: jax.make_mesh(..., axis_types=...) (others may stay Explicit)"
        )

    def local(shared: PyTree, rows: PyTree) -> PyTree:
        out = function(shared, rows)
        return jax.lax.psum(out, AXIS) if reduce else out

    return jax.shard_map(
        local,
        mesh=_auto(mesh),
        in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
        out_specs=PartitionSpec() if reduce else PartitionSpec(AXIS),
        axis_names={AXIS},
        check_vma=False,  # accumulators start as plain zeros on every device
    )


def _auto(mesh: Mesh) -> Mesh:
    """The same mesh with a population of which types say nothing."""
    types = zip(mesh.axis_names, mesh.axis_types, strict=True)
    types = (AxisType.Auto if name == AXIS else kind for name, kind in types)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=tuple(types))
