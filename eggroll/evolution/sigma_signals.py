"""What the fitness of a generation says about sigma, for the rules in `adaptation`.

Pure functions of fitness in a floating-point type, free of its scale; a signal is a
number from -1 (sigma is too large) to 1 (too small).
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from eggroll.evolution import shaping as shapings


def success(
    fitness: Float[Array, " members"],
    reference: Float[Array, ""],
    remainder: Float[Array, ""] | float,
    target: float,
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """Compares the share of members above a reference with a target.

    Args:
        fitness: of the members; what is not finite is left out.
        reference: what they are compared with; not finite: unknown.
        remainder: what is to be added to it.
        target: share of successes at which the signal is 0.

    Returns:
        The signal: each success adds 1/target - 1, each failure -1, a tie nothing,
        divided by the members, and at most 1 in all. It is 0 without a reference.
        And whether there is a member to be compared.
    """
    finite = jnp.isfinite(fitness)
    is_known, count = jnp.isfinite(reference), jnp.sum(finite)
    above = jnp.where(finite, fitness, 0) - jnp.where(is_known, reference, 0)
    better, worse = (finite & x for x in (above > remainder, above < remainder))
    total = (1 / target - 1) * jnp.sum(better) - jnp.sum(worse)
    signal = jnp.minimum(total / jnp.maximum(count, 1), 1)
    return jnp.where(is_known, signal, 0), count > 0


def surpassed(
    fitness: Float[Array, " members"], share: float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the fitness that a member like these surpasses with this probability.

    An order statistic: of n independent draws n - k surpass the k-th smallest, and
    another draw does with probability 1 - k/(n + 1), whatever the distribution.

    Returns:
        It, in float32, and what that left of it; infinite if no fitness is finite.
    """
    finite = jnp.isfinite(fitness)
    last = jnp.sum(finite) - 1
    place = jnp.clip((1 - share) * (last + 2) - 1, 0, jnp.maximum(last, 0))
    below = jnp.floor(place).astype(jnp.int32)
    ordered = jnp.sort(jnp.where(finite, fitness, jnp.inf))
    low, high = ordered[below], ordered[jnp.minimum(below + 1, jnp.maximum(last, 0))]
    value = low + jnp.where(high > low, high - low, 0) * (place - below)
    first = value.astype(jnp.float32)
    rest = jnp.where(jnp.isfinite(value), value - first, 0)
    return first, rest.astype(jnp.float32)


def slope(
    fitness: Float[Array, " members"], target: float
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """Compares the spread within antithetic pairs with that between them.

    Args:
        fitness: of the members; pairs of which one is not finite are left out.
        target: ratio of the spread of the pairs' means to that of the halves of their
            differences at which the signal is 0.

    Returns:
        The signal (target² D - M) / (target² D + M), with D the mean square of the
        halves and M the variance of the means; 0 if both are 0. And whether there are
        two pairs to be compared.
    """
    usable = shapings.usable(fitness, antithetic=True)
    values, _ = shapings.scaled_down(jnp.where(usable, fitness, 0))
    # Counted from one of them, small differences survive beside a large offset.
    values = jnp.where(usable, values - values[jnp.argmax(usable)], 0)
    plus, minus = shapings.scaled_down(values)[0].reshape(-1, 2).T
    keep, pairs = usable[::2], jnp.sum(usable[::2])
    mean = (plus + minus) / 2
    apart = jnp.where(keep, mean - jnp.sum(mean) / jnp.maximum(pairs, 1), 0)
    within = target**2 * jnp.sum(((plus - minus) / 2) ** 2) / jnp.maximum(pairs, 1)
    between = jnp.sum(apart**2) / jnp.maximum(pairs - 1, 1)
    both = within + between
    return (within - between) / jnp.where(both > 0, both, 1), pairs > 1
