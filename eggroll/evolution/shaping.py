"""Fitness shaping: pure functions from the raw fitness of N members to N weights.

All but `none` are free of scale: f and a f + b (a > 0) get the same weights, whatever
the size of a, and nothing overflows on the way. Fitness comes in the type it was
computed in, integers too, and what is scored outside JAX in float64; it is centred
before it is narrowed. Members whose fitness is not finite are left out of the
statistics, and the strategy gives them weight zero. `groups(...)` makes a shaping that
works within groups of members that read the same data.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num


Shaping = Callable[[Num[Array, " members"]], Num[Array, " members"]]


def apply(
    shaping: Shaping, fitness: Num[Any, " members"], *, antithetic: bool
) -> Num[Any, " members"]:
    """Shapes fitness, with weight zero for members that failed.

    Args:
        shaping: which.
        fitness: of each member. What is no array of JAX is shaped on the host, in
            float64.
        antithetic: members 2p and 2p+1 are a pair. The partner of a failed member
            weighs zero too: its half of the difference says nothing alone.

    Returns:
        The weights, in an array of the kind and the precision of `fitness`.

    Raises:
        ValueError: if `shaping` does not give one weight a member.
    """
    if not isinstance(fitness, jax.Array):
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            whole = jnp.asarray(np.asarray(fitness, np.float64))
            return np.asarray(apply(shaping, whole, antithetic=antithetic))
    keep = usable(fitness, antithetic=antithetic)
    if jnp.issubdtype(fitness.dtype, jnp.floating):
        fitness = jnp.where(keep, fitness, jnp.nan)
    weights = shaping(fitness)
    if weights.shape != fitness.shape:
        raise ValueError(
            f"shaping must give one weight a member: expected shape {fitness.shape}, "
            f"got {weights.shape}"
        )
    return jnp.where(keep, weights, jnp.zeros((), weights.dtype))


def usable(fitness: Num[Any, " members"], *, antithetic: bool) -> Bool[Any, " members"]:
    """Returns which members count: their fitness, and their partner's, is finite."""
    finite = (jnp if isinstance(fitness, jax.Array) else np).isfinite(fitness)
    if antithetic:
        finite = finite.reshape(-1, 2).all(axis=1).repeat(2)
    return finite


def none(fitness: Num[Array, " members"]) -> Num[Array, " members"]:
    """Leaves fitness as it is: the estimate is of the gradient of fitness itself."""
    return fitness


def zscore(fitness: Num[Array, " members"]) -> Float[Array, " members"]:
    """Subtracts the mean and divides by the standard deviation (paper, section 1.6).

    Fitness that does not vary gets weights of zero.
    """
    centred = _centred(fitness)
    return _divide(centred, _spread(centred))


def centred_rank(fitness: Num[Array, " members"]) -> Float[Array, " members"]:
    """Replaces fitness by its rank, from -1/2 (worst) to 1/2 (best); ties share a rank.

    References:
        Wierstra et al., "Natural Evolution Strategies", JMLR 2014; Salimans et al.,
        arXiv 1703.03864, section 2.1.
    """
    finite = jnp.isfinite(fitness)
    ordered = jnp.sort(fitness)  # NaN goes last
    below = jnp.searchsorted(ordered, fitness, side="left")
    through = jnp.searchsorted(ordered, fitness, side="right")
    rank = (below + through - 1) / 2
    best = jnp.maximum(jnp.sum(finite) - 1, 1)
    return jnp.where(finite, rank / best - 0.5, jnp.nan)


def pair_sign(fitness: Num[Array, " members"]) -> Float[Array, " members"]:
    """Weighs the better of each antithetic pair +1/2 and the other -1/2; ties zero."""
    plus, minus = fitness[0::2], fitness[1::2]
    half = ((plus > minus) - 1.0 * (plus < minus)) / 2
    return jnp.stack([half, -half], axis=1).reshape(-1)


def groups(size: int, spread: str = "global") -> Shaping:
    """Makes a z-score about the mean of each group of `size` consecutive members.

    Args:
        size: members a group; they read the same data, such as one prompt.
        spread: what the deviations are divided by: "global", the standard deviation of
            all of them (the paper's rule for language models), or "group", each
            group's own. Where there is none, the weights are zero.

    Raises:
        ValueError: for an unknown spread, a size below 2, or, when shaping, a size that
            does not divide the population.
    """
    return _Groups(size, spread)


@dataclasses.dataclass(frozen=True)
class _Groups:
    """See `groups`; a value, so that two of the same settings are equal."""

    size: int
    spread: str

    def __post_init__(self) -> None:
        if self.spread not in ("global", "group"):
            raise ValueError(f"spread must be 'global' or 'group', got {self.spread!r}")
        if self.size < 2:
            raise ValueError(
                f"a group needs at least 2 members to compare, got size={self.size}"
            )

    def __call__(self, fitness: Num[Array, " members"]) -> Float[Array, " members"]:
        if fitness.shape[0] % self.size:
            raise ValueError(
                f"the group size must divide the population: got groups of "
                f"{self.size} and {fitness.shape[0]} members"
            )
        centred = _centred(fitness.reshape(-1, self.size))
        if self.spread == "group":
            centred = scaled_down(centred, axis=-1)[0]
            return _divide(centred, _spread(centred, axis=-1)).reshape(-1)
        return _divide(centred, _spread(centred)).reshape(-1)


def scaled_down(
    values: Float[Array, "*dims"], axis: int | None = None
) -> tuple[Float[Array, "*dims"], Float[Array, "..."]]:
    """Divides by a power of two, exactly, so that the largest value is near 1.

    Returns:
        The values, and what they were divided by.
    """
    sizes = jnp.where(jnp.isfinite(values), jnp.abs(values), 0)
    _, exponent = jnp.frexp(jnp.max(sizes, axis=axis, keepdims=True, initial=0))
    # Smaller units, and inverses of larger ones, would be flushed to zero.
    least = jnp.finfo(values.dtype).minexp
    one = jnp.ones((), values.dtype)
    unit = jnp.ldexp(one, jnp.clip(exponent - 1, least, -least))
    return values / unit, unit


def _centred(values: Num[Array, "*groups size"]) -> Float[Array, "*groups size"]:
    """Subtracts the mean of each group, in units of the largest deviation.

    Values are first counted from the least of their group, which is exact where it
    matters: fitness that does not vary becomes zero, and small differences beside a
    large offset stay what they are.
    """
    if jnp.issubdtype(values.dtype, jnp.integer):
        wide = jnp.dtype(f"u{values.dtype.name.lstrip('u')}")  # no difference overflows
        least = jnp.min(values, axis=-1, keepdims=True)
        counted = (values.astype(wide) - least.astype(wide)).astype(jnp.float32)
    else:
        values, _ = scaled_down(values)
        usable = jnp.isfinite(values)
        least = jnp.min(jnp.where(usable, values, jnp.inf), axis=-1, keepdims=True)
        counted = values - jnp.where(jnp.isfinite(least), least, 0)
    counted, _ = scaled_down(counted)
    return scaled_down(counted - _mean(counted))[0]


def _mean(values: Float[Array, "..."], axis: int | None = -1) -> Float[Array, "..."]:
    """Means over the usable members; 0 where there is none."""
    usable = jnp.isfinite(values)
    total = jnp.sum(jnp.where(usable, values, 0), axis=axis, keepdims=True)
    return total / jnp.maximum(jnp.sum(usable, axis=axis, keepdims=True), 1)


def _spread(
    centred: Float[Array, "..."], axis: int | None = None
) -> Float[Array, "..."]:
    return jnp.sqrt(_mean(centred**2, axis))


def _divide(
    centred: Float[Array, "..."], spread: Float[Array, "..."]
) -> Float[Array, "..."]:
    return jnp.where(spread > 0, centred / jnp.where(spread > 0, spread, 1), 0.0)
