"""Fitness shaping: pure functions from the raw fitness of N members to N weights.

All but `none`, `centre` and the like are free of scale: f and a f + b (a > 0) get the
same weights, whatever the size of a, and nothing overflows on the way. (Of `centre` the
weights grow with a, so that learning rates depend on the units of fitness.) Fitness
comes in the type it was computed in, integers too, and what is scored outside JAX in
float64; it is centred before it is narrowed. Members whose fitness is not finite are
left out of the statistics, and the strategy gives them weight zero; but for
`ranks("last")`, where they come last. `groups(...)` makes a shaping that works within
groups of members that read the same data.

A shaping may declare, by an attribute that is true, that it `counts_failed`: it takes
NaN for a member that failed and gives it a weight of its own; or that it `needs_pairs`,
as members 2p and 2p + 1 are compared.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from eggroll.evolution.centring import deviations, scaled_down, standardised


Shaping = Callable[[Num[Array, " members"]], Num[Array, " members"]]


def apply(
    shaping: Shaping, fitness: Num[Any, " members"], *, antithetic: bool
) -> Num[Any, " members"]:
    """Shapes fitness, with weight zero for members that do not count.

    Args:
        shaping: which.
        fitness: of each member. What is no array of JAX is shaped on the host, in
            float64.
        antithetic: members 2p and 2p+1 are a pair. The partner of a failed member
            weighs zero too: its half of the difference says nothing alone. (Both count
            where the shaping counts what failed, unless all did.)

    Returns:
        The weights, in an array of the kind and the precision of `fitness`.

    Raises:
        ValueError: if `shaping` does not give one weight a member.
    """
    if isinstance(fitness, jax.Array):
        keep = counted(shaping, fitness, antithetic=antithetic)
        return _applied(shaping, fitness, keep)
    fitness = np.asarray(fitness, np.float64)
    keep = counted(shaping, fitness, antithetic=antithetic)
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        return np.asarray(_applied(shaping, jnp.asarray(fitness), keep))


def _applied(
    shaping: Shaping, fitness: Num[Array, " members"], keep: Bool[Any, " members"]
) -> Num[Array, " members"]:
    if jnp.issubdtype(fitness.dtype, jnp.floating):
        counts_failed = _declares(shaping, "counts_failed")
        told = jnp.isfinite(fitness) if counts_failed else keep
        fitness = jnp.where(told, fitness, jnp.nan)
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


def counted(
    shaping: Shaping, fitness: Num[Any, " members"], *, antithetic: bool
) -> Bool[Any, " members"]:
    """Returns which members count under a shaping; if none, nothing can be learnt.

    Those that are `usable`; all of them where the shaping counts what failed, as long
    as one has not.
    """
    if not _declares(shaping, "counts_failed"):
        return usable(fitness, antithetic=antithetic)
    finite = usable(fitness, antithetic=False)
    return finite | finite.any()


def needs_pairs(shaping: Shaping) -> bool:
    """Whether a shaping compares members 2p and 2p + 1, so that they must be a pair."""
    return _declares(shaping, "needs_pairs")


def none(fitness: Num[Array, " members"]) -> Num[Array, " members"]:
    """Leaves fitness as it is: the estimate is of the gradient of fitness itself."""
    return fitness


def centre(fitness: Num[Array, "*groups members"]) -> Float[Array, "*groups members"]:
    """Subtracts the mean and divides by nothing: weights in the units of fitness."""
    weights, units = deviations(fitness)
    for unit in units:
        weights = weights * unit
    limit = jnp.finfo(weights.dtype).max
    return jnp.clip(weights, -limit, limit)


def zscore(fitness: Num[Array, " members"]) -> Float[Array, " members"]:
    """Subtracts the mean and divides by the standard deviation (paper, section 1.6).

    Fitness that does not vary gets weights of zero.
    """
    return standardised(deviations(fitness)[0])


def centred_rank(fitness: Num[Array, " members"]) -> Float[Array, " members"]:
    """Replaces fitness by its rank, from -1/2 (worst) to 1/2 (best); ties share a rank.

    References:
        Wierstra et al., "Natural Evolution Strategies", JMLR 2014; Salimans et al.,
        arXiv 1703.03864, section 2.1.
    """
    return _rank(fitness, jnp.isfinite(fitness))


def ranks(failed: str = "out") -> Shaping:
    """Makes a `centred_rank` that says what becomes of members that failed.

    Args:
        failed: "out", they and their partners weigh zero, as with `centred_rank`; or
            "last", they rank below all others, tied among themselves, and their weights
            count: for tasks where failing tells something of the parameters. If all
            failed, all weigh zero.

    Raises:
        ValueError: for another word.
    """
    return _Ranks(failed)


@dataclasses.dataclass(frozen=True)
class _Ranks:
    """See `ranks`; a value, so that two of the same settings are equal."""

    failed: str

    def __post_init__(self) -> None:
        if self.failed not in ("out", "last"):
            raise ValueError(f"failed must be 'out' or 'last', got {self.failed!r}")

    @property
    def counts_failed(self) -> bool:
        return self.failed == "last"

    def __call__(self, fitness: Num[Array, " members"]) -> Float[Array, " members"]:
        finite = jnp.isfinite(fitness)
        if not self.counts_failed:
            return _rank(fitness, finite)
        if jnp.issubdtype(fitness.dtype, jnp.floating):
            fitness = jnp.where(finite, fitness, -jnp.inf)
        return _rank(fitness, jnp.ones_like(finite))


def pair_sign(fitness: Num[Array, " members"]) -> Float[Array, " members"]:
    """Weighs the better of each antithetic pair +1/2 and the other -1/2; ties zero.

    Raises:
        ValueError: if the number of members is odd.
    """
    if fitness.shape[0] % 2:
        raise ValueError(
            "pair_sign compares members 2p and 2p + 1: expected an even number of "
            f"members, got {fitness.shape[0]}; use another shaping, or one more member"
        )
    plus, minus = fitness[0::2], fitness[1::2]
    half = jnp.where(plus > minus, 0.5, jnp.where(plus < minus, -0.5, 0.0))
    return jnp.stack([half, -half], axis=1).reshape(-1)


def groups(size: int, spread: str = "global") -> Shaping:
    """Makes deviations from the mean of each group of `size` consecutive members.

    Args:
        size: members a group; they read the same data, such as one prompt.
        spread: what the deviations are divided by: "global", the standard deviation of
            all of them (the paper's rule for language models), or "group", each
            group's own; where there is none, the weights are zero. "none" divides by
            nothing, as `centre` does: of two members alone, a z-score forgets by how
            much they differ.

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
        if self.spread not in ("global", "group", "none"):
            raise ValueError(
                f"spread must be 'global', 'group' or 'none', got {self.spread!r}"
            )
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
        grouped = fitness.reshape(-1, self.size)
        if self.spread == "none":
            return centre(grouped).reshape(-1)
        centred, _ = deviations(grouped)
        if self.spread == "group":
            centred = scaled_down(centred, axis=-1)[0]
            return standardised(centred, axis=-1).reshape(-1)
        return standardised(centred).reshape(-1)


def _declares(shaping: Shaping, name: str) -> bool:
    while isinstance(shaping, functools.partial):  # as settings of a run become
        shaping = shaping.func
    if name == "needs_pairs" and shaping is pair_sign:
        return True
    return bool(getattr(shaping, name, False))


@jax.jit  # whole, for fitness of the host
def _rank(
    fitness: Num[Array, " members"], counts: Bool[Array, " members"]
) -> Float[Array, " members"]:
    """Centred ranks of those that count, NaN for the others, whose fitness is NaN."""
    ordered = jnp.sort(fitness)  # NaN goes last
    below = jnp.searchsorted(ordered, fitness, side="left")
    through = jnp.searchsorted(ordered, fitness, side="right")
    best = jnp.sum(counts).astype(jnp.float32) - 1
    twice = (below + through - 1).astype(jnp.float32)
    rank = twice / 2 / jnp.maximum(best, 1)
    # Who is alone is neither the best nor the worst.
    return jnp.where(counts, jnp.where(best > 0, rank - 0.5, 0), jnp.nan)
