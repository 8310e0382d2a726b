"""Makes meshes: which devices evaluate members, and which share a model."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from eggroll.evolution.sharding import AXIS


def population_mesh(
    devices: Sequence[Any] | None = None, *, model: int | None = None
) -> Mesh:
    """Returns a mesh that spreads a population over devices.

    Its axes are `population` and, where `model` is said, `model`: so many neighbours
    share a model between them (a strategy's `partition` says how) and evaluate the same
    members. They are of one island of fast links: a slice of TPUs, or else a host. From
    island to island, the population is spread.

    Args:
        devices: which; by default all, of all processes.
        model: how many of them share a model; None: there is no such axis.

    Raises:
        ValueError: if the devices of an island are no multiple of `model`.
    """
    devices = list(jax.devices() if devices is None else devices)
    islands = _islands(devices)
    share = 1 if model is None else model
    if share < 1 or (len(devices) // islands) % share:
        raise ValueError(
            f"model must divide the number of devices that have fast links, "
            f"{len(devices) // islands} ({len(devices)} devices, of {islands} hosts or "
            f"slices), got {share}"
        )
    shape = (len(devices) // share, share)
    axes = 1 if model is None else 2
    names, shape = (AXIS, "model")[:axes], shape[:axes]
    types = (AxisType.Auto,) * axes
    if islands == 1 or not _has_slices(devices):
        return jax.make_mesh(shape, names, types, devices=devices)
    within = (shape[0] // islands, *shape[1:])
    between = (islands, *(1,) * (axes - 1))
    arranged = mesh_utils.create_hybrid_device_mesh(within, between, devices)
    return Mesh(arranged, names, axis_types=types)


def _has_slices(devices: Sequence[Any]) -> bool:
    """Whether devices say of which slice of a pod of TPUs they are."""
    return all(hasattr(device, "slice_index") for device in devices)


def _islands(devices: Sequence[Any]) -> int:
    """Over how many slices, or else hosts, devices are spread; 1 if unevenly."""
    name = "slice_index" if _has_slices(devices) else "process_index"
    places = [getattr(device, name) for device in devices]
    return len({*places}) if len({places.count(x) for x in places}) == 1 else 1
