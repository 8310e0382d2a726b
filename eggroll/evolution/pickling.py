"""Pickles strategies that hold what cannot be pickled: meshes, and schedules of optax.

A mesh names devices of this process: it is told as their numbers and made again from
those of the process that unpickles. A function made within another, as every schedule
of optax is, has no name to be found by: it goes as its code, through `cloudpickle`.
"""

import dataclasses
import pickle
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh


def reduced(strategy: Any) -> tuple:
    """What `__reduce__` of a frozen dataclass returns, so that it can be pickled.

    Copied, it keeps its mesh and its functions. Unpickled it has equal ones, but that a
    function sent as code equals none but itself.

    Args:
        strategy: an instance of a frozen dataclass.

    Raises:
        pickle.PicklingError: when pickled, if a field holds a function that pickle
            cannot name, and there is no `cloudpickle`.
    """
    names = [field.name for field in dataclasses.fields(strategy)]
    packed = {name: _packed(name, getattr(strategy, name)) for name in names}
    return rebuilt, (type(strategy), packed)


def rebuilt(cls: type, fields: dict[str, Any]) -> Any:
    """Returns the instance whose fields these are; they have been checked before."""
    made = object.__new__(cls)
    for name, value in fields.items():
        content = value.content if isinstance(value, _Parcel) else value
        object.__setattr__(made, name, content)
    return made


def mesh_of(
    platform: str,
    ids: tuple[int, ...],
    shape: tuple[int, ...],
    axis_names: tuple[str, ...],
    axis_types: tuple[str, ...],
) -> Mesh:
    """Makes a mesh of the devices with these numbers, or else of the first as many.

    Raises:
        ValueError: if there are fewer.
    """
    try:
        there = {device.id: device for device in jax.devices(platform)}
    except RuntimeError:  # no such platform
        there = {}
    if len(there) < len(ids):
        raise ValueError(
            f"the mesh of the pickled strategy has {len(ids)} devices of type "
            f"{platform}, and here are {len(there)}: unpickle it where there are as "
            "many, or pickle dataclasses.replace(strategy, mesh=None)"
        )
    known = ids if there.keys() >= {*ids} else sorted(there)[: len(ids)]
    devices = np.array([there[one] for one in known]).reshape(shape)
    types = tuple(AxisType[name] for name in axis_types)
    return Mesh(devices, axis_names, axis_types=types)


@dataclasses.dataclass(frozen=True)
class _Parcel:
    """The content of a field, which only pickle has to have in another form."""

    field: str
    content: Any

    def __deepcopy__(self, memo: Any) -> "_Parcel":
        return self

    def __reduce__(self) -> tuple:
        if isinstance(self.content, Mesh):
            return mesh_of, _facts(self.content)
        return pickle.loads, (_code(self.field, self.content),)


def _packed(name: str, value: Any) -> Any:
    """A field as it is where pickle can have it so."""
    is_odd = isinstance(value, Mesh) or (callable(value) and not _has_name(value))
    return _Parcel(name, value) if is_odd else value


def _has_name(function: Any) -> bool:
    try:
        pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True


def _code(field: str, function: Any) -> bytes:
    advice = (
        "use a function that a module defines, functools.partial of one, or a frozen "
        "dataclass with __call__"
    )
    try:
        import cloudpickle
    except ModuleNotFoundError:
        raise pickle.PicklingError(
            f"{field} cannot be pickled: {function!r} is made within a function, as "
            f"all schedules of optax are: {advice}, or pip install cloudpickle"
        ) from None
    try:
        return cloudpickle.dumps(function)
    except Exception as error:
        raise pickle.PicklingError(
            f"{field} cannot be pickled, nor by cloudpickle: {error}; {advice}"
        ) from error


def _facts(mesh: Mesh) -> tuple:
    """The arguments of `mesh_of`."""
    devices = list(mesh.devices.flat)
    return (
        devices[0].platform,
        tuple(device.id for device in devices),
        mesh.devices.shape,
        tuple(mesh.axis_names),
        tuple(one.name for one in mesh.axis_types),
    )
