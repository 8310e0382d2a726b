"""Running mean and variance of what a population observes."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Moments(NamedTuple):
    r"""Count, mean and sum of squared deviations $\sum (x - \bar x)^2$ of samples.

    Unlike sums of squares, these lose no precision when the mean is large.
    """

    count: Float[Array, "..."]
    mean: Float[Array, "..."]
    deviations: Float[Array, "..."]


def no_moments(shape: tuple[int, ...]) -> Moments:
    """Return the moments of no samples at all, each of the given shape."""
    return Moments(jnp.zeros(()), jnp.zeros(shape), jnp.zeros(shape))


def moments(
    samples: Float[Array, "samples ..."], valid: Bool[Array, " samples"]
) -> Moments:
    """Return the moments of the valid samples, those with infinities or NaN left out.

    One broken environment must not spoil what all the others see.
    """
    axes = tuple(range(1, samples.ndim))
    valid = valid & jnp.all(jnp.isfinite(samples), axis=axes)
    mask = jnp.expand_dims(valid, axes)
    count = jnp.sum(valid, dtype=jnp.float32)
    mean = jnp.sum(jnp.where(mask, samples, 0), axis=0) / jnp.maximum(count, 1)
    squares = jnp.where(mask, (samples - mean) ** 2, 0)
    return Moments(count, mean, jnp.sum(squares, axis=0))


def merge(a: Moments, b: Moments) -> Moments:
    r"""Return the moments of two sets of samples taken together.

    $n = n_a + n_b$, $\delta = \bar b - \bar a$, $\bar x = \bar a + \delta n_b / n$,
    $M = M_a + M_b + \delta^2 n_a n_b / n$.

    References:
        Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for
        Computing Sample Variances" (1979), eq. 2.1.
    """
    count = a.count + b.count
    share = b.count / jnp.maximum(count, 1)
    delta = b.mean - a.mean
    return Moments(
        count,
        a.mean + delta * share,
        a.deviations + b.deviations + delta**2 * a.count * share,
    )


def merge_all(stacked: Moments) -> Moments:
    """Merge moments along their leading axis, all at once."""
    axes = tuple(range(1, stacked.mean.ndim))
    counts = jnp.expand_dims(stacked.count, axes)
    count = jnp.sum(stacked.count)
    mean = jnp.sum(counts * stacked.mean, axis=0) / jnp.maximum(count, 1)
    between = counts * (stacked.mean - mean) ** 2
    return Moments(count, mean, jnp.sum(stacked.deviations + between, axis=0))


def normalise(
    x: Float[Array, "*shape"], seen: Moments, *, limit: float = 10.0
) -> Float[Array, "*shape"]:
    r"""Return `x` in standard deviations from the mean, clipped to +-`limit`.

    $(x - \bar x) / \sqrt{v + (10^{-5} \bar x)^2}$: units do not matter, as what
    is added to the variance is in them too. It exceeds what float32 leaves as the
    deviation of a constant, which so becomes 0 to a few hundredths, and there is no
    limit below which something else happens. Before anything is seen, `x` is
    returned as it is.
    """
    variance = seen.deviations / jnp.maximum(seen.count, 1)
    scale = jnp.sqrt(variance + (1e-5 * seen.mean) ** 2)
    scale = jnp.maximum(scale, jnp.finfo(scale.dtype).tiny)
    scaled = jnp.clip((x - seen.mean) / scale, -limit, limit)
    return jnp.where(seen.count > 0, scaled, x)


def normalise_team(
    x: Float[Array, "agents *shape"], seen: Moments, *, limit: float = 10.0
) -> Float[Array, "agents *shape"]:
    r"""Normalise what agents with one network observe, by what all of them have seen.

    With moments of its own for each agent, what tells agents apart would be taken from
    them: a number that is the same at all times, such as an agent's index, is 0 in
    standard deviations from its mean. So the network's inputs have one mean and one
    variance each, $\bar x = \mathrm{mean}_i\, m_i$ and
    $\mathrm{mean}_i [v_i + (m_i - \bar x)^2]$, over the agents i, and as they are stay

    - padding: what an agent has seen to be 0 at all times, which counts for nothing;
    - indices and types: what has been the same at all times to each agent, but not the
      same to all.

    Args:
        x: observations.
        seen: moments of each agent's observations.
        limit: as in `normalise`.
    """
    variance = seen.deviations / jnp.maximum(seen.count, 1)
    # Of a constant, float32 leaves this much of a deviation.
    varies = variance > (1e-6 * seen.mean) ** 2
    counts = varies | (seen.mean != 0)
    agents = jnp.maximum(jnp.sum(counts, axis=0), 1)
    mean = jnp.sum(seen.mean, axis=0) / agents
    within = variance + (seen.mean - mean) ** 2
    spread = jnp.sum(jnp.where(counts, within, 0), axis=0)
    pooled = Moments(seen.count, mean, spread / agents * seen.count)
    differ = jnp.abs(seen.mean - seen.mean[0]) > 1e-6 * jnp.abs(seen.mean)
    is_label = ~jnp.any(varies, axis=0) & jnp.any(differ, axis=0)
    return jnp.where(~counts | is_label, x, normalise(x, pooled, limit=limit))
