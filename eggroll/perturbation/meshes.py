"""How arrays lie on a mesh, as far as their types tell.

Within `jax.shard_map`, a type says along which axes a value may differ between devices;
where axes are explicit, how an array is divided over them.
"""

from collections.abc import Iterable
from typing import Any

import jax
from jax import lax
from jax.sharding import AbstractMesh, AxisType, NamedSharding


def varying(tree: Any) -> frozenset[str]:
    """The mesh axes over which any array of a pytree varies.

    Within `jax.shard_map`, an array's type says along which axes of the mesh its value
    may differ between devices; elsewhere there are none.
    """
    leaves = jax.tree.leaves(tree)
    types = [jax.typeof(x) if isinstance(x, jax.Array) else x for x in leaves]
    known = [getattr(x, "manual_axis_type", None) for x in types]
    return frozenset().union(*(x.varying for x in known if x is not None))


def vary(x: Any, axes: Iterable[str]) -> Any:
    """Makes all arrays of a pytree vary over some mesh axes; values are the same."""

    def one(x: Any) -> Any:
        missing = tuple(sorted({*axes} - varying(x)))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(one, x)


def barrier(tree: Any) -> Any:
    """An optimization barrier, behind which arrays vary over the axes they did before.

    (JAX 0.10 lets arrays of one kind alone through a barrier.)
    """
    leaves, structure = jax.tree.flatten(tree)
    kinds = [varying(x) for x in leaves]
    for kind in {*kinds}:
        at = [i for i, k in enumerate(kinds) if k == kind]
        passed = lax.optimization_barrier([leaves[i] for i in at])
        for i, x in zip(at, passed, strict=True):
            leaves[i] = x
    return jax.tree.unflatten(structure, leaves)


def explicit(x: Any) -> NamedSharding | None:
    """How an array is divided over explicit axes of a mesh, which its type tells."""
    kind = jax.typeof(x) if isinstance(x, jax.Array) else x
    sharding = getattr(kind, "sharding", None)
    if not isinstance(sharding, NamedSharding) or not any(sharding.spec):
        return None
    return sharding if sharding.mesh.explicit_axes else None


def as_taken(traced: AbstractMesh, now: AbstractMesh) -> AbstractMesh:
    """The mesh of a trace; axes that a `shard_map` has taken since then stay taken."""
    if traced.empty:
        return now
    return traced.update_axis_types(dict.fromkeys(now.manual_axes, AxisType.Manual))


def moved(param: Any) -> Any:
    """A parameter of an equation; a sharding is then of the mesh as it is now."""
    mesh = param.mesh if isinstance(param, NamedSharding) else None
    if not isinstance(mesh, AbstractMesh):
        return param
    return param.update(mesh=as_taken(mesh, jax.sharding.get_abstract_mesh()))
