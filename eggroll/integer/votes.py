"""Votes of antithetic pairs on each weight, counted exactly, in integers.

    Z = Σ_p F_p A_p B_pᵀ = (diag(F) A)ᵀ B

One int8 matmul a matrix; a sum of integers does not depend on its order. A pair's
weight F_p is the sign of f⁺_p - f⁻_p, as published, or that difference in eight bits.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int8, Int32, Num, UInt

from eggroll.evolution.shaping import scaled_down
from eggroll.perturbation.layout import Layout
from eggroll.perturbation.rules import FullRank


MEAN = 32  # what the mean size of a difference is scaled to


def from_host(fitness: Float[np.ndarray, " members"]) -> Float[Array, " members"]:
    """Brings fitness of the host to the device: what tells its pairs apart, no more.

    Votes depend on the differences of pairs, in units of their size: both are taken
    here, in float64, where large offsets and any size have room.
    """
    with np.errstate(invalid="ignore"):  # of members that failed
        half = fitness[0::2] / 2 - fitness[1::2] / 2
    size = np.max(np.abs(half), where=np.isfinite(half), initial=0)
    half = half / size if size > 0 else half
    return jnp.asarray(np.stack([half, -half], axis=1).reshape(-1), jnp.float32)


def pair_signs(fitness: Num[Array, " members"]) -> Int8[Array, " pairs"]:
    """Returns +1 or -1 for each pair, by its better member; 0 for a tie or a NaN."""
    plus, minus = fitness[0::2], fitness[1::2]
    return (plus > minus).astype(jnp.int8) - (plus < minus).astype(jnp.int8)


def pair_differences(fitness: Num[Array, " members"]) -> Int8[Array, " pairs"]:
    """Returns each pair's difference in units of a 32nd of their mean size.

    A sign tells less of what a pair has found than the difference does: 2/π of it, if
    the differences are normal. Beyond four times the mean size they are cut off.
    """
    if not jnp.issubdtype(fitness.dtype, jnp.floating):
        size = _distance(fitness[0::2], fitness[1::2])
        scaled = _ratio(size, jnp.maximum(_mean(size), 1))
        return pair_signs(fitness) * scaled.astype(jnp.int8)
    fitness, _ = scaled_down(fitness)  # so that no difference overflows
    difference = fitness[0::2] - fitness[1::2]
    difference = jnp.where(jnp.isfinite(difference), difference, 0)
    size = jnp.mean(jnp.abs(difference))
    scaled = jnp.round(MEAN * difference / jnp.where(size > 0, size, 1))
    return jnp.clip(scaled, -127, 127).astype(jnp.int8)


def _distance(
    a: Num[Array, " pairs"], b: Num[Array, " pairs"]
) -> UInt[Array, " pairs"]:
    """Returns |a - b| of whole numbers (or truth values), of any size."""
    above = a > b
    if a.dtype.itemsize < 4:
        a, b = a.astype(jnp.int32), b.astype(jnp.int32)
    # Differences are right modulo 2^bits, and those that are asked for lie below it.
    unsigned = jnp.uint64 if a.dtype.itemsize == 8 else jnp.uint32
    a, b = a.astype(unsigned), b.astype(unsigned)
    return jnp.where(above, a - b, b - a)


def _ratio(x: UInt[Array, "*dims"], unit: UInt[Array, ""]) -> UInt[Array, "*dims"]:
    """Returns MEAN · x / unit, rounded to nearest and at most 127.

    By long division, bit after bit: no product is formed that could overflow.
    """
    ratio, rest = x // unit, x % unit
    ratio = jnp.minimum(ratio, 128 // MEAN)  # that much is cut off in any case
    for _ in range(MEAN.bit_length() - 1):
        is_one = rest >= unit - rest
        rest = jnp.where(is_one, rest - (unit - rest), rest + rest)
        ratio = 2 * ratio + is_one
    return jnp.minimum(ratio + (rest >= unit - unit // 2), 127)


def _mean(x: UInt[Array, " pairs"]) -> UInt[Array, ""]:
    """The mean, rounded down; in two stages, as votes have been counted from the first.

    (Each is rounded down: the result is that of one stage, or one less.)
    """
    rows = math.gcd(x.shape[0], 2**10)
    return _floored_mean(_floored_mean(x.reshape(rows, -1)))


def _floored_mean(x: UInt[Array, "*dims count"]) -> UInt[Array, "*dims"]:
    """The mean along the last axis, rounded down.

    The sum is kept as its quotient and remainder by the count, which cannot overflow.
    """
    count = x.shape[-1]  # a number of Python: reductions close over nothing else

    def add(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        quotient, rest = a[0] + b[0], a[1] + b[1]
        carry = (rest >= count).astype(x.dtype)
        return quotient + carry, rest - carry * count

    zero = jnp.zeros((), x.dtype)
    parts = (x // count, x % count)
    return lax.reduce(parts, (zero, zero), add, (x.ndim - 1,))[0]


# Of the two kinds of weights, with the standard deviation of normal differences' ones.
WEIGHTS = {
    "sign": (pair_signs, 1),
    "difference": (pair_differences, round(MEAN * math.sqrt(math.pi / 2))),
}


def contract(
    layout: Layout,
    factors: Sequence[Int8[Array, "pairs ..."]],
    weights: Int8[Array, " pairs"],
) -> Int32[Array, "*dims"]:
    """Returns Σ_p w_p Σ_r Π_k factor_k[p, ..., r], of the leaf's shape.

    For a matrix, that is one int8 matmul.

    Args:
        layout: how the leaf is perturbed.
        factors: of each pair.
        weights: of the pairs; their products with factors must fit int8.
    """
    first, *rest = factors
    first = first * weights.reshape(-1, *(1,) * (first.ndim - 1))
    if isinstance(layout.rule, FullRank):
        product = first.astype(jnp.int32)
        for factor in rest:
            product = product * factor.astype(jnp.int32)
        return jnp.sum(product, axis=(0, -1), dtype=jnp.int32)
    left, right = (jnp.moveaxis(x, 0, -1) for x in (first, *rest))
    left, right = jnp.squeeze(left, -3), jnp.squeeze(right, -4)
    batch = tuple(range(len(layout.batch)))
    left, right = (x.reshape(*x.shape[:-2], -1) for x in (left, right))
    last = left.ndim - 1
    return lax.dot_general(
        left,
        right,
        (((last,), (last,)), (batch, batch)),
        preferred_element_type=jnp.int32,
    )
