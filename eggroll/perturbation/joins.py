"""Several perturbed arrays made one: added, or joined along a dimension.

Their ranks add up: the factors of each stand beside those of the others.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from eggroll.perturbation.array import Perturbed
from eggroll.perturbation.views import broadcast_in_dim


def summed(first: Perturbed | None, second: Perturbed | None) -> Perturbed | None:
    """Adds two perturbed arrays, or returns None where they are not of one kind.

    Where their factors vary along the same dimensions they stand side by side: the
    thin products are as many as before.
    """
    if first is None or second is None or first.shape != second.shape:
        return None
    if any(x.is_free_to_write_out or x.is_integer for x in (first, second)):
        return None
    dims = lambda x: [shape[:-1] for shape in x.shapes]
    if dims(first) != dims(second):
        return None
    pairs = zip(_scaled_factors(first), _scaled_factors(second), strict=True)
    factors = [jnp.concatenate(pair, -1) for pair in pairs]
    weight, paths = first.weight + second.weight, first.paths + second.paths
    return Perturbed(weight, factors, jnp.float32(1.0), tuple(dict.fromkeys(paths)))


def concatenate(leaves: Sequence[Any], axis: int) -> Perturbed | None:
    """Joins arrays along a dimension, or returns None where it cannot.

    The parts keep ranks of their own: a part's factors are zero along the axis where
    the other parts are. With n parts the thin products are n times as dear: still thin.
    Where a part's factors do not vary along the axis (it is new, as in `stack`), one
    more factor says where the part is. Parts that are not perturbed have no factors.

    Args:
        leaves: the parts, at least one of them perturbed.
        axis: the dimension.
    """
    perturbed = [x for x in leaves if isinstance(x, Perturbed)]
    kinds = {len(x.factors) for x in perturbed}
    if len(kinds) > 1 or any(x.is_integer for x in perturbed):
        return None
    plain = [x.weight if isinstance(x, Perturbed) else x for x in leaves]
    weight = jnp.concatenate(plain, axis)
    marked = any(all(f.shape[axis] == 1 for f in x.factors) for x in perturbed)
    # [P, Q] + [A Bᵀ, C Dᵀ] = [P, Q] + [A, C] [[B, 0], [0, D]]ᵀ
    parts, before = [], 0
    for x in leaves:
        after = weight.shape[axis] - before - x.shape[axis]
        if isinstance(x, Perturbed):
            parts.append(_placed(x, axis, (before, after), marked))
        before += x.shape[axis]
    factors = []
    for same in zip(*parts, strict=True):
        dims = jnp.broadcast_shapes(*(f.shape[:-1] for f in same))
        wide = [jnp.broadcast_to(f, (*dims, f.shape[-1])) for f in same]
        factors.append(jnp.concatenate(wide, -1))
    paths = tuple(path for x in perturbed for path in x.paths)
    looked_up = all(x.is_free_to_write_out for x in perturbed)
    return Perturbed(weight, factors, jnp.float32(1.0), paths, looked_up)


def stack(leaves: Sequence[Perturbed], axis: int) -> Perturbed | None:
    """Joins perturbed arrays along a new dimension."""
    dims = [d for d in range(leaves[0].ndim + 1) if d != axis]

    def widened(leaf: Perturbed) -> Perturbed:
        shape = [*leaf.shape[:axis], 1, *leaf.shape[axis:]]
        return broadcast_in_dim(leaf, shape, dims)

    return concatenate([widened(x) for x in leaves], axis)


def _placed(
    leaf: Perturbed, axis: int, around: tuple[int, int], marked: bool
) -> list[Array]:
    """The factors of a part of a longer array, with the scale in the first of them."""
    pad = [(0, 0)] * (leaf.ndim + 1)
    pad[axis] = around
    factors = [
        f if f.shape[axis] == 1 else jnp.pad(f, pad) for f in _scaled_factors(leaf)
    ]
    if marked:
        dims = (leaf.shape[axis] if d == axis else 1 for d in range(leaf.ndim))
        factors.append(jnp.pad(jnp.ones((*dims, leaf.rank), leaf.accumulator), pad))
    return factors


def _scaled_factors(leaf: Perturbed) -> list[Array]:
    """The factors, with the scale in the first of them."""
    first, *rest = [f.astype(leaf.accumulator) for f in leaf.factors]
    return [leaf.scale.thin(first), *rest]
