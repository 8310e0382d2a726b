"""A running baseline: what fitness was of late, which members are judged against.

Unlike a z-score over the members at hand, which two of them pass with weights of 1 and
-1 whatever their difference, it tells a large difference from a small one. Pure
functions of a state of a few scalars. A generation counts half as much after a
half-life h: with k = 2^(-1/h), generation t weighs k^(T - t), and the baseline's mean
and variance are those of all members so weighted, merged without differences of
squares,

    W <- k W + 1 - k,   m <- m + c δ,   s² <- (1 - c) s² + c σ² + c (1 - c) δ²,

where c = (1 - k)/W, δ is the mean of the generation less m, and σ its deviation.

References:
    The question is that of Cho and Han, arXiv 2607.19408: division by the spread of the
    members is what makes populations of two fail.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from eggroll.evolution.centring import deviations


KEPT = 2.0**-44  # to which two float32 hold a mean


class Baseline(NamedTuple):
    """What fitness was of late, float32 scalars all.

    Attributes:
        weight: how much has come in, from 0 towards 1.
        mean: of fitness.
        remainder: what float32 left of the mean: large offsets hide no difference.
        spread: standard deviation of fitness.
    """

    weight: Float[Array, ""]
    mean: Float[Array, ""]
    remainder: Float[Array, ""]
    spread: Float[Array, ""]


def baseline_init() -> Baseline:
    """Returns a baseline that has seen nothing."""
    return Baseline(*(jnp.zeros((), jnp.float32) for _ in range(4)))


def baseline_update(
    baseline: Baseline, fitness: Num[Any, " members"], half_life: float
) -> Baseline:
    """Returns the baseline after a generation.

    Args:
        baseline: before.
        fitness: of the members; those that are no numbers are left out. What is no
            array of JAX is read in float64.
        half_life: generations after which one counts half as much.
    """
    if not isinstance(fitness, jax.Array):
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            return _updated(baseline, _wide(fitness), half_life)
    return _updated(baseline, fitness, half_life)


@jax.jit
def _updated(
    baseline: Baseline, fitness: Num[Array, " members"], half_life: Any
) -> Baseline:
    fitness = fitness.astype(jnp.promote_types(fitness.dtype, jnp.float32))
    counts, (centred, units) = jnp.isfinite(fitness), deviations(fitness)
    number = jnp.maximum(jnp.sum(counts), 1)
    spread = jnp.sqrt(jnp.sum(jnp.where(counts, centred**2, 0)) / number)
    for unit in units:
        spread = spread * unit[0]
    # A mean counted from the least: of equal numbers it is that number, exactly.
    least = jnp.min(fitness, where=counts, initial=jnp.inf)
    above = jnp.sum(jnp.where(counts, fitness - least, 0) / number)
    keep = 0.5 ** (1 / half_life)
    weight = keep * baseline.weight + (1 - keep)
    share = (1 - keep) / weight
    old = baseline.mean.astype(fitness.dtype) + baseline.remainder
    apart = least + above - old  # the first time, from a mean of zero
    apart = jnp.where(jnp.abs(apart) > KEPT * jnp.abs(old), apart, 0)
    between = jnp.where(share < 1, jnp.sqrt(share * (1 - share)) * jnp.abs(apart), 0)
    within = jnp.hypot(jnp.sqrt(1 - share) * baseline.spread, jnp.sqrt(share) * spread)
    mean = jnp.where(share < 1, old + share * apart, apart)
    whole = mean.astype(jnp.float32)
    new = Baseline(weight, whole, mean - whole, jnp.hypot(within, between))
    usable = jnp.any(counts)
    pick = lambda x, y: jnp.where(usable, x, y).astype(jnp.float32)
    return jax.tree.map(pick, new, baseline)


def against(
    baseline: Baseline, fitness: Num[Any, " members"]
) -> Float[Any, " members"]:
    """Returns fitness as a deviation from the baseline, in its standard deviations.

    A baseline that has not varied, or has seen nothing, gives zeros: update it first.

    Args:
        baseline: of late.
        fitness: of the members. What is no array of JAX is compared in float64, on the
            host.
    """
    if not isinstance(fitness, jax.Array):
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            return np.asarray(_against(baseline, _wide(fitness)))
    return _against(baseline, fitness)


@jax.jit
def _against(
    baseline: Baseline, fitness: Num[Array, " members"]
) -> Float[Array, " members"]:
    fitness = fitness.astype(jnp.promote_types(fitness.dtype, jnp.float32))
    apart = fitness - baseline.mean.astype(fitness.dtype) - baseline.remainder
    varies = baseline.spread > 0
    scaled = apart / jnp.where(varies, baseline.spread, 1)
    return jnp.where(varies, scaled, jnp.where(jnp.isfinite(fitness), 0, jnp.nan))


def _wide(fitness: Num[Any, " members"]) -> Float[Array, " members"]:
    return jnp.asarray(np.asarray(fitness, np.float64))
