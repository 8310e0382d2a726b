"""Views of a perturbed array: operations that keep weight and factors apart.

Each takes a `Perturbed` and returns one that stands for the operation's result. A
factor has size 1 along dimensions where it does not vary, and keeps it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding
from jaxtyping import Array, Int

from eggroll.perturbation.array import Perturbed


def transpose(leaf: Perturbed, permutation: Sequence[int]) -> Perturbed:
    """Permutes dimensions."""
    parts = [jnp.transpose(f, (*permutation, leaf.ndim)) for f in leaf.parts]
    return leaf.replace(jnp.transpose(leaf.weight, permutation), parts)


def squeeze(leaf: Perturbed, dimensions: Sequence[int]) -> Perturbed:
    """Drops dimensions of size 1."""
    parts = [lax.squeeze(f, dimensions) for f in leaf.parts]
    return leaf.replace(lax.squeeze(leaf.weight, dimensions), parts)


def broadcast_in_dim(
    leaf: Perturbed,
    shape: Sequence[int],
    dimensions: Sequence[int],
    sharding: NamedSharding | None = None,
) -> Perturbed:
    """Adds dimensions; the factors do not vary along them."""

    def spread(factor: Array) -> Array:
        wide = [1] * len(shape)
        for i, d in enumerate(dimensions):
            wide[d] = factor.shape[i]
        return factor.reshape(*wide, factor.shape[-1])

    weight = lax.broadcast_in_dim(leaf.weight, shape, dimensions, out_sharding=sharding)
    return leaf.replace(weight, [spread(f) for f in leaf.parts])


def reshape(
    leaf: Perturbed, shape: Sequence[int], sharding: NamedSharding | None = None
) -> Perturbed:
    """Splits and merges dimensions.

    A factor that varies along some, but not all, of the dimensions being merged is
    repeated along the rest of them.
    """
    groups = _matching(leaf.shape, tuple(shape))

    def regroup(factor: Array) -> Array:
        full, new = [], []
        for old_dims, new_dims in groups:
            # Where it varies along none of the dimensions that are being merged, it
            # stays as small as it is; else it has to have all of them.
            varies = any(factor.shape[d] != 1 for d in old_dims)
            full += [leaf.shape[d] if varies else 1 for d in old_dims]
            new += [shape[d] if varies else 1 for d in new_dims]
        rank = factor.shape[-1]
        return jnp.broadcast_to(factor, (*full, rank)).reshape(*new, rank)

    weight = lax.reshape(leaf.weight, shape, out_sharding=sharding)
    return leaf.replace(weight, [regroup(f) for f in leaf.parts])


def _matching(
    old: tuple[int, ...], new: tuple[int, ...]
) -> list[tuple[list[int], list[int]]]:
    """Splits two shapes of equal size into the shortest runs of equal product."""
    groups, i, j = [], 0, 0
    # Both shapes are read from the left; whichever run has the smaller product so far
    # takes its next dimension, until they are equal. A size of 0 makes all products 0,
    # so that the other side then takes all it has.
    while i < len(old) or j < len(new):
        left, right = [i] if i < len(old) else [], [j] if j < len(new) else []
        a = old[i] if left else 1
        b = new[j] if right else 1
        i, j = i + len(left), j + len(right)
        while a != b:
            if (a < b or b == 0) and i < len(old):
                a, i = a * old[i], i + 1
                left.append(i - 1)
            else:
                b, j = b * new[j], j + 1
                right.append(j - 1)
        groups.append((left, right))
    return groups


def slice_(
    leaf: Perturbed,
    start: Sequence[int],
    limit: Sequence[int],
    strides: Sequence[int] | None,
) -> Perturbed:
    """Takes a range along each dimension."""
    strides = strides or (1,) * leaf.ndim

    def cut(array: Array, extra: tuple[int, ...] = ()) -> Array:
        # Along a dimension where a factor does not vary, its one slice serves all.
        bounds = [
            (a, b, s) if size == full else (0, 1, 1)
            for a, b, s, size, full in zip(
                start, limit, strides, array.shape, leaf.shape, strict=False
            )
        ]
        bounds += [(0, size, 1) for size in extra]
        return lax.slice(array, *zip(*bounds, strict=True))

    return leaf.replace(cut(leaf.weight), [cut(f, (f.shape[-1],)) for f in leaf.parts])


def dynamic_slice(
    leaf: Perturbed, start: Sequence[Any], sizes: Sequence[int]
) -> Perturbed:
    """Takes a range that is known at run time only, along each dimension."""

    def cut(array: Array, extra: tuple[int, ...] = ()) -> Array:
        varies = [a == b for a, b in zip(array.shape, leaf.shape, strict=False)]
        at = [s if v else jnp.zeros_like(s) for s, v in zip(start, varies, strict=True)]
        at += [jnp.zeros_like(start[0]) for _ in extra]
        size = [n if v else 1 for n, v in zip(sizes, varies, strict=True)]
        # what is negative here is out of bounds, and clamped
        return lax.dynamic_slice(
            array, at, (*size, *extra), allow_negative_indices=False
        )

    return leaf.replace(cut(leaf.weight), [cut(f, (f.shape[-1],)) for f in leaf.parts])


def gather(
    leaf: Perturbed, indices: Int[Array, "*batch depth"], params: dict[str, Any]
) -> Perturbed:
    """Takes slices at run-time positions: rows of an embedding, layers of a stack.

    A factor that does not vary along the indexed dimensions is not gathered at all: its
    one slice serves every index. Where all do, the slices are matrices with noise of
    their own; else what many positions take are rows of one. Where an index is out of
    bounds, and the result is a value of the caller's choice, one factor is zero.
    """
    numbers: lax.GatherDimensionNumbers = params["dimension_numbers"]
    # An index into a dimension that is taken whole cannot choose anything.
    sizes = zip(params["slice_sizes"], leaf.shape, strict=True)
    indexed = {d for d, (size, full) in enumerate(sizes) if size < full}
    vary = [any(f.shape[d] != 1 for d in indexed) for f in leaf.parts]
    count = len(leaf.factors)
    if count and not any(vary[:count]):
        vary[0] = True  # for indices out of bounds, where noise has to be zero
    looked_up = indexed - {*numbers.operand_batching_dims}
    is_table = any(f.shape[d] == 1 for d in looked_up for f in leaf.factors)

    def take(factor: Array, varies: bool, fill: int) -> Array:
        # A factor that does not vary is taken once, at a single index, so that the
        # result has size 1 along the dimensions of the indices.
        anywhere = jnp.zeros((1,) * (indices.ndim - 1) + indices.shape[-1:], int)
        at, shape = indices if varies else anywhere, list(factor.shape)
        for d in numbers.operand_batching_dims if varies else ():
            shape[d] = leaf.shape[d]
        sizes = [
            n if shape[d] == leaf.shape[d] else 1
            for d, n in enumerate(params["slice_sizes"])
        ]
        how: dict[str, Any] = {**params, "slice_sizes": sizes, "fill_value": fill}
        per_rank = lambda array: lax.gather(array, at, **how)
        wide = jnp.broadcast_to(factor, shape)
        return jax.vmap(per_rank, in_axes=-1, out_axes=-1)(wide)

    weight = lax.gather(leaf.weight, indices, **params)
    fills = [0] * count + [1] * leaf.gained
    parts = [take(*part) for part in zip(leaf.parts, vary, fills, strict=True)]
    rows = leaf.looked_up or (is_table and indices.ndim > 1)
    return leaf.replace(weight, parts, looked_up=rows)


def rev(leaf: Perturbed, dimensions: Sequence[int]) -> Perturbed:
    """Turns dimensions round."""
    parts = [lax.rev(f, dimensions) for f in leaf.parts]
    return leaf.replace(lax.rev(leaf.weight, dimensions), parts)


def convert(leaf: Perturbed, dtype: Any) -> Perturbed:
    """Makes the weight floats of a type, or of another; the factors are of none."""
    return leaf.replace(leaf.weight.astype(dtype), leaf.parts)


def scaled(leaf: Perturbed, operation: Callable, number: Array) -> Perturbed | None:
    """Multiplies or divides by a number: weight and scale undergo the same.

    Returns None where the scale cannot.
    """
    scale = leaf.scale.rescaled(operation, number.astype(leaf.accumulator))
    if scale is None:
        return None
    weight = operation(leaf.weight, number)
    return leaf.replace(weight, leaf.parts, scale=scale)


def scaled_along(
    leaf: Perturbed, weight: Array, operation: Callable, rows: Array
) -> Perturbed:
    """Multiplies or divides by a number for each position along one dimension.

    Args:
        leaf: the perturbed array.
        weight: its weight, scaled.
        operation: the multiplication or division.
        rows: the numbers, with size 1 along all other dimensions.
    """
    along = [d for d, n in enumerate(rows.shape) if n != 1]
    vary = [all(f.shape[d] != 1 for d in along) for f in leaf.factors]
    at, parts = vary.index(True) if any(vary) else 0, [*leaf.parts]
    if leaf.factors:
        parts[at] = operation(parts[at].astype(leaf.accumulator), rows[..., None])
    return leaf.replace(weight, parts)


def pad(
    leaf: Perturbed, value: Array, config: Sequence[tuple[int, int, int]]
) -> Perturbed | None:
    """Pads with a constant, or returns None where that would need more factors."""
    padded = {d for d, widths in enumerate(config) if any(widths)}
    if (
        leaf.is_integer
        or leaf.gained
        or any(all(shape[d] == 1 for shape in leaf.shapes) for d in padded)
    ):
        return None

    def one(factor: Array) -> Array:
        vary = zip(config, factor.shape, strict=False)
        widths = [w if n != 1 else (0, 0, 0) for w, n in vary]
        return lax.pad(factor, jnp.zeros((), factor.dtype), [*widths, (0, 0, 0)])

    return leaf.replace(lax.pad(leaf.weight, value, config), [*map(one, leaf.factors)])


def tile(leaf: Perturbed, repeats: Sequence[int]) -> Perturbed:
    """Repeats the whole along each dimension."""

    def repeated(factor: Array) -> Array:
        vary = zip(factor.shape, repeats, strict=False)
        return jnp.tile(factor, (*(1 if n == 1 else r for n, r in vary), 1))

    return leaf.replace(jnp.tile(leaf.weight, repeats), [*map(repeated, leaf.parts)])
