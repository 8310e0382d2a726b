"""Fitness shaping: pure functions from the raw fitness of N members to N weights.

Every function leaves members whose fitness is not finite out of its statistics; the
strategy gives them weight zero. `groups(...)` makes one that works within groups of
members that read the same data.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


Shaping = Callable[[Float[Array, " members"]], Float[Array, " members"]]


def apply(
    shaping: Shaping, fitness: Float[Array, " members"], *, antithetic: bool
) -> Float[Array, " members"]:
    """Shapes fitness, with weight zero for members that failed.

    With antithetic pairs the partner of a failed member weighs zero too: its half of
    the difference says nothing alone.
    """
    usable = jnp.isfinite(fitness)
    if antithetic:
        usable = jnp.repeat(usable.reshape(-1, 2).all(axis=1), 2)
    weights = shaping(jnp.where(usable, fitness, jnp.nan))
    if weights.shape != fitness.shape:
        raise ValueError(
            f"shaping must give one weight a member: expected shape {fitness.shape}, "
            f"got {weights.shape}"
        )
    return jnp.where(usable, weights, 0.0)


def none(fitness: Float[Array, " members"]) -> Float[Array, " members"]:
    """Leaves fitness as it is: the estimate is of the gradient of fitness itself."""
    return fitness


def zscore(
    fitness: Float[Array, " members"], epsilon: float = 1e-8
) -> Float[Array, " members"]:
    """Subtracts the mean and divides by the standard deviation (paper, section 1.6).

    Fitness that does not vary gets weights of zero.
    """
    centred = _centred(fitness)
    return _divide(centred, _spread(centred), epsilon)


def centred_rank(fitness: Float[Array, " members"]) -> Float[Array, " members"]:
    """Replaces fitness by its rank, from -1/2 (worst) to 1/2 (best); ties share a rank.

    References:
        Wierstra et al., "Natural Evolution Strategies", JMLR 2014; Salimans et al.,
        arXiv 1703.03864, section 2.1.
    """
    usable = jnp.isfinite(fitness)
    count = jnp.sum(usable)
    ordered = jnp.sort(jnp.where(usable, fitness, jnp.inf))
    below = jnp.searchsorted(ordered, fitness, side="left")
    through = jnp.searchsorted(ordered, fitness, side="right")
    rank = (below + through - 1) / 2
    return jnp.where(usable, rank / jnp.maximum(count - 1, 1) - 0.5, jnp.nan)


def pair_sign(fitness: Float[Array, " members"]) -> Float[Array, " members"]:
    """Weighs the better of each antithetic pair +1/2 and the other -1/2; ties zero."""
    positive, negative = fitness[0::2], fitness[1::2]
    half = jnp.sign(positive - negative) / 2
    return jnp.stack([half, -half], axis=1).reshape(-1)


def groups(size: int, spread: str = "global", epsilon: float = 1e-8) -> Shaping:
    """Makes a z-score about the mean of each group of `size` consecutive members.

    Args:
        size: members a group; they read the same data, such as one prompt.
        spread: what the deviations are divided by: "global", the standard deviation of
            all of them (the paper's rule for language models), or "group", each
            group's own.
        epsilon: below this the spread counts as none, and the weights are zero.

    Raises:
        ValueError: for an unknown spread, a size below 2, or, when shaping, a size that
            does not divide the population.
    """
    if spread not in ("global", "group"):
        raise ValueError(f"spread must be 'global' or 'group', got {spread!r}")
    if size < 2:
        raise ValueError(f"a group needs at least 2 members to compare, got {size=}")

    def shape(fitness: Float[Array, " members"]) -> Float[Array, " members"]:
        if fitness.shape[0] % size:
            raise ValueError(
                f"the group size must divide the population: got groups of {size} and "
                f"{fitness.shape[0]} members"
            )
        grouped = fitness.reshape(-1, size)
        centred = _centred(grouped)
        scale = _spread(centred) if spread == "global" else _spread(centred, axis=1)
        return _divide(centred, scale, epsilon).reshape(-1)

    return shape


def _centred(values: Float[Array, "*groups size"]) -> Float[Array, "*groups size"]:
    """Subtracts the mean of each group; twice, as the first mean is rounded.

    Else fitness that does not vary would seem to, by what was rounded off.
    """
    once = values - _mean(values)
    return once - _mean(once)


def _mean(values: Float[Array, "*groups size"]) -> Float[Array, "*groups 1"]:
    """Means over the usable members of each group; 0 for a group without any."""
    usable: Bool[Array, "*groups size"] = jnp.isfinite(values)
    total = jnp.sum(jnp.where(usable, values, 0), axis=-1, keepdims=True)
    return total / jnp.maximum(jnp.sum(usable, axis=-1, keepdims=True), 1)


def _spread(
    centred: Float[Array, "..."], axis: int | None = None
) -> Float[Array, "..."]:
    usable = jnp.isfinite(centred)
    total = jnp.sum(jnp.where(usable, centred, 0) ** 2, axis=axis, keepdims=True)
    return jnp.sqrt(total / jnp.maximum(jnp.sum(usable, axis=axis, keepdims=True), 1))


def _divide(
    centred: Float[Array, "..."], scale: Float[Array, "..."], epsilon: float
) -> Float[Array, "..."]:
    return jnp.where(scale > epsilon, centred / jnp.maximum(scale, epsilon), 0.0)
