"""How parameters lie over the axes of a mesh that share a model: rules by path."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from eggroll.evolution.sharding import AXIS
from eggroll.perturbation.layout import Layout, is_array, named_leaves
from eggroll.perturbation.rules import Rules


def shardings(
    params: PyTree, mesh: Mesh, partition: Mapping[str, PartitionSpec]
) -> PyTree:
    """Returns how each parameter lies on a mesh, for `jax.device_put` or `jax.jit`.

    Args:
        params: arrays, or their shapes.
        mesh: with the axes that the rules name.
        partition: by path pattern, the axis that divides each dimension, as in
            `PartitionSpec(None, "model")`; the first match decides. What none matches
            is whole on every device.

    Returns:
        A pytree like `params` of `NamedSharding`.

    Raises:
        ValueError: if a pattern matches no leaf, or a leaf cannot be divided so.
    """
    rules, named = Rules(partition), named_leaves(params)
    rules.check(path for path, _ in named)
    found = [
        NamedSharding(mesh, _checked(rules.find(path), path, x.shape, mesh))
        for path, x in named
    ]
    return jax.tree.unflatten(jax.tree.structure(params), found)


def partition_of(specs: PyTree) -> dict[str, PartitionSpec]:
    """Returns the rules of a pytree that says how each parameter lies.

    Args:
        specs: of `PartitionSpec` or `NamedSharding`, like the parameters, such as
            `flax.nnx.get_partition_spec` makes of a model's own metadata.
    """
    is_spec = lambda x: isinstance(x, PartitionSpec | NamedSharding)
    flat, _ = jax.tree_util.tree_flatten_with_path(specs, is_leaf=is_spec)
    name = lambda path: jax.tree_util.keystr(
        path, simple=True, separator="/"
    ).removesuffix("/value")  # of a variable of Flax NNX
    spec = lambda x: x.spec if isinstance(x, NamedSharding) else x
    return {name(path): spec(x) for path, x in flat if is_spec(x)}


def placed(
    plan: Sequence[Layout | None],
    params: PyTree,
    mesh: Mesh | None,
    partition: Mapping[str, PartitionSpec],
) -> tuple[Layout | None, ...]:
    """Adds to a plan how each leaf lies over the axes of the model.

    A rule says so, or the leaf itself: by its type, where axes are explicit, or as an
    array that is there. (Of those that JAX traces, nothing else is known.)
    """
    if mesh is None or mesh.size == mesh.shape[AXIS]:
        return tuple(plan)
    rules = Rules(partition)
    rules.check(path for path, _ in named_leaves(params))

    def one(layout: Layout | None, leaf: Any) -> Layout | None:
        if layout is None:
            return None
        spec = rules.find(layout.path) or _own(leaf, mesh)
        if spec is None:
            return layout
        spec = _checked(spec, layout.path, layout.shape, mesh)
        return dataclasses.replace(layout, spec=spec)

    pairs = zip(plan, jax.tree.leaves(params), strict=True)
    return tuple(one(layout, leaf) for layout, leaf in pairs)


def parts(layout: Layout, mesh: Mesh | None) -> int:
    """Into how many parts a leaf is divided over the axes of the model."""
    if mesh is None or layout.spec is None:
        return 1
    names = [name for one in layout.spec for name in _names(one)]
    return math.prod(mesh.shape[name] for name in names)


def _own(leaf: Any, mesh: Mesh) -> PartitionSpec | None:
    """How a leaf lies over the axes of a model, as far as itself can tell."""
    if not is_array(leaf) or not isinstance(leaf, jax.Array):
        return None
    sharding = jax.typeof(leaf).sharding
    if not sharding.mesh.explicit_axes:  # types say nothing
        sharding = None if isinstance(leaf, Tracer) else leaf.sharding
    if not isinstance(sharding, NamedSharding):
        return None
    kept = [_without_population(names) for names in sharding.spec]
    known = {name for names in kept for name in _names(names)}
    return PartitionSpec(*kept) if known <= {*mesh.shape} else None


def _without_population(names: Any) -> Any:
    kept = tuple(name for name in _names(names) if name != AXIS)
    return kept or None


def _names(names: Any) -> tuple[str, ...]:
    """The axes that divide a dimension."""
    if names is None or names is PartitionSpec.UNCONSTRAINED:
        return ()
    return (names,) if isinstance(names, str) else tuple(names)


def _checked(
    spec: PartitionSpec | None, path: str, shape: tuple[int, ...], mesh: Mesh
) -> PartitionSpec:
    """What a rule says of a leaf, if that can be.

    Raises:
        ValueError: naming the leaf.
    """
    spec = PartitionSpec() if spec is None else PartitionSpec(*spec)
    used = [name for names in spec for name in _names(names)]
    others = [name for name in mesh.shape if name != AXIS]
    if unknown := [name for name in used if name not in others]:
        raise ValueError(
            f"partition: {path} is divided over {unknown[0]!r}, expected axes of the "
            f"mesh that share the model: {', '.join(others) or 'there are none'}"
        )
    if len(spec) > len(shape):
        raise ValueError(
            f"partition: {path} has {len(shape)} dimensions, its rule says how to "
            f"divide {len(spec)}: {spec}"
        )
    for d, names in enumerate(spec):
        parts = math.prod(mesh.shape[name] for name in _names(names))
        if shape[d] % parts:
            raise ValueError(
                f"partition: dimension {d} of {path}, of size {shape[d]}, cannot be "
                f"divided into {parts} equal parts: divide another, or leave the leaf "
                f"whole"
            )
    return spec
