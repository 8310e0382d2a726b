"""Several perturbed arrays made one: added, multiplied, or joined along a dimension.

Their ranks add up: the factors of each stand beside those of the others.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from eggroll.perturbation.array import Perturbed
from eggroll.perturbation.product import DotDims
from eggroll.perturbation.views import broadcast_in_dim, transpose


def summed(first: Perturbed | None, second: Perturbed | None) -> Perturbed | None:
    """Adds two perturbed arrays, or returns None where they are not of one kind.

    Where their factors vary along the same dimensions they stand side by side: the
    thin products are as many as before.
    """
    if first is None or second is None or first.shape != second.shape:
        return None
    if any(x.is_free_to_write_out or not _is_plain(x) for x in (first, second)):
        return None
    is_followed = lambda x: {*x.paths} > {*x.unfollowed}
    if is_followed(second) and not is_followed(first):
        first, second = second, first
    by_dims = lambda x: {f.shape[:-1]: f for f in _scaled_factors(x)}
    ours, theirs = by_dims(first), by_dims(second)
    if not is_followed(second):  # its factors may stand in any order
        nowhere = jnp.ones((1,) * first.ndim + (second.rank,))
        theirs = {dims: theirs.get(dims, nowhere) for dims in ours} | theirs
    if [*ours] != [*theirs] or len(ours) < len(first.factors):
        return None
    factors = [jnp.concatenate([f, theirs[dims]], -1) for dims, f in ours.items()]
    return _joined([first, second], first.weight + second.weight, factors)


def multiplied(
    first: Perturbed, second: Perturbed, dims: DotDims, weight: Array
) -> Perturbed | None:
    """Multiplies perturbed matrices, or returns None where they are something else.

        (A + P Qᵀ) (B + U Vᵀ) = A B + P (Q (B + U Vᵀ))ᵀ + (A U) Vᵀ

    Args:
        first: a matrix, or a batch of them.
        second: another.
        dims: which dimensions are contracted, and which are a batch, of each.
        weight: the product of their weights.
    """
    sides = []
    for i, (x, contract, batch) in enumerate(zip((first, second), *dims, strict=True)):
        if x.is_free_to_write_out or x.ndim != len(batch) + 2 or not _is_plain(x):
            return None
        (free,) = {*range(x.ndim)} - {*contract, *batch}
        matrix = (*contract, free) if i else (free, *contract)
        sides.append(_sides(transpose(x, (*batch, *matrix))))
    one, other = sides
    if one is None or other is None:
        return None
    (a, p, q), (b, u, v) = one, other
    left = _beside(p, a @ u)[..., :, None, :]
    right = _beside(b.mT @ q + v @ (u.mT @ q), v)[..., None, :, :]
    product = _joined([first, second], weight, [left, right])
    return product.replace(weight, product.factors, unfollowed=product.paths)


def _is_plain(leaf: Perturbed) -> bool:
    """Whether a perturbed array is of floats, and nothing but weight and factors."""
    return not leaf.is_integer and not leaf.gained


def _sides(leaf: Perturbed) -> tuple[Array, Array, Array] | None:
    """A matrix, or a batch of them, with its left and right factor, if it has two."""
    left, right = [], []
    for factor in _scaled_factors(leaf):
        if factor.shape[-2] == 1:
            left.append(factor[..., 0, :])
        elif factor.shape[-3] == 1:
            right.append(factor[..., 0, :, :])
        else:
            return None
    if not left or not right:
        return None
    one = lambda factors: functools.reduce(operator.mul, factors)
    return leaf.weight.astype(leaf.accumulator), one(left), one(right)


def _beside(first: Array, second: Array) -> Array:
    """Columns beside columns, for each matrix of a batch."""
    dims = jnp.broadcast_shapes(first.shape[:-1], second.shape[:-1])
    wide = [jnp.broadcast_to(x, (*dims, x.shape[-1])) for x in (first, second)]
    return jnp.concatenate(wide, -1)


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
    if len(kinds) > 1 or not all(map(_is_plain, perturbed)):
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
    looked_up = all(x.is_free_to_write_out for x in perturbed)
    return _joined(perturbed, weight, factors, looked_up=looked_up)


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


def _joined(
    parts: Sequence[Perturbed],
    weight: Array,
    factors: Sequence[Array],
    *,
    looked_up: bool = False,
) -> Perturbed:
    """What comes of several perturbed arrays; the factors hold the scales."""
    every = lambda names: tuple(dict.fromkeys(n for x in parts for n in names(x)))
    paths, unfollowed = every(lambda x: x.paths), every(lambda x: x.unfollowed)
    one = jnp.float32(1.0)
    return Perturbed(weight, factors, one, paths, looked_up, unfollowed)
