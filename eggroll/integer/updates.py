r"""Updates of integer weights: votes become steps of whole units.

Had fitness nothing to do with the noise, the votes on a weight would be normal, with a
known standard deviation. Comparing them with a multiple of it picks the share of the
weights that moves:

    |Z| ≥ z(t) · std(Z),       z(t) = Φ⁻¹(1 - α(t)/2)

Rules are pairs of pure functions, on integers only: `memoryless`, as published, moves
by one and forgets; `accumulating` keeps in int16 what was too little for a move.

References:
    "Evolution Strategies at the Hyperscale", arXiv 2511.16652, section 7 and appendix.
"""

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int8, Int16, Int32, PyTree


Share = float | Callable[[int], float]

FRACTION = 16  # thresholds and accumulators count sixteenths of a standard deviation
LIMIT = 127
FOREVER = 2**31 - 1


def inverse_time(rate: float = 0.015) -> Callable[[int], float]:
    """Returns the published schedule α(t) = 1/(rate · t + 1)."""
    if not rate >= 0:
        raise ValueError(f"the rate of inverse_time must not be negative, got {rate}")
    return lambda step: 1.0 / (rate * step + 1.0)


def z_score(alpha: Share) -> Callable[[Int[Array, ""] | int], Int32[Array, ""]]:
    """Turns a share of moving weights into a threshold in sixteenths of a deviation.

    The returned function computes with integers only: as α never rises, its threshold
    z(t) = ⌊16 Φ⁻¹(1 - α(t)/2)⌋ climbs by steps, and where it climbs is found here.

    Args:
        alpha: the share of weights that moves at a step when the votes are noise, in
            (0, 1]; or a non-increasing function from step to it.

    Raises:
        ValueError: if a share lies outside (0, 1].
    """
    share = alpha if callable(alpha) else lambda step: alpha
    firsts: list[int] = []
    while (first := _first_step(share, len(firsts) + 1)) is not None:
        firsts.append(first)
    climbs = np.array(firsts, np.int32)
    return lambda step: jnp.sum(jnp.asarray(step) >= climbs, dtype=jnp.int32)


def _first_step(share: Callable[[int], float], level: int) -> int | None:
    """The first step whose threshold is at least `level` sixteenths; None if never."""
    low, high = 0, FOREVER
    if _sixteenths(share(high)) < level:
        return None
    while low < high:
        middle = (low + high) // 2
        if _sixteenths(share(middle)) >= level:
            high = middle
        else:
            low = middle + 1
    return low


def _sixteenths(alpha: float) -> int:
    if not 0 < alpha <= 1:
        raise ValueError(
            f"alpha, the share of weights that moves, must be in (0, 1], got {alpha}"
        )
    return int(FRACTION * NormalDist().inv_cdf(1 - alpha / 2)) if alpha < 1 else 0


class UpdateRule(NamedTuple):
    """A pair of pure functions that turn votes into new weights.

    Attributes:
        init: `params -> state`.
        update: `(votes, state, params, step, std) -> (params, state)`, where `std`
            holds for each leaf the standard deviation of votes on pure noise, as
            `IntegerStrategy.vote_std` gives it.
    """

    init: Callable[[PyTree], PyTree]
    update: Callable[..., tuple[PyTree, PyTree]]


def memoryless(alpha: Share | None = None, *, ties_fall: bool = False) -> UpdateRule:
    """Moves each weight by one where its votes reach the threshold.

    Args:
        alpha: the share of weights that moves at a step when the votes are noise; by
            default the published schedule `inverse_time()`.
        ties_fall: count votes of zero as negative, as the published program does.

    Raises:
        ValueError: if a share lies outside (0, 1].
    """
    needed = z_score(inverse_time() if alpha is None else alpha)

    def update(
        votes: PyTree, state: tuple, params: PyTree, step: Int[Array, ""], std: PyTree
    ) -> tuple[PyTree, tuple]:
        z = needed(step)

        def leaf(weight: Int8[Array, "..."], vote: Int32[Array, "..."], std: int):
            direction = jnp.where(vote > 0, 1, -1) if ties_fall else jnp.sign(vote)
            return _move(weight, direction * (jnp.abs(vote) >= z * std // FRACTION))

        return jax.tree.map(leaf, params, votes, std), state

    return UpdateRule(lambda params: (), update)


def accumulating(
    threshold: int = FRACTION, halving: int | None = None, leak: int | None = None
) -> UpdateRule:
    """Adds votes up in int16 and moves a weight by what has reached the threshold.

    What a move takes is paid from the accumulator; the rest waits. So no vote is lost,
    as with a master copy of the weights in finer units.

    Args:
        threshold: votes for a move of one, in sixteenths of the standard deviation of
            votes on pure noise; its inverse is the learning rate.
        halving: steps after which the threshold has doubled, then tripled, and so on.
        leak: each step the accumulator loses its 2^leak-th part; None: nothing. With a
            leak, votes for too little and too seldom are forgotten.

    Raises:
        ValueError: if a setting is out of range.
    """
    if not 1 <= threshold <= 2**12:
        raise ValueError(f"threshold must be between 1 and 4096, got {threshold}")
    for name, value in (("halving", halving), ("leak", leak)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, or None, got {value}")

    def update(
        votes: PyTree, state: PyTree, params: PyTree, step: Int[Array, ""], std: PyTree
    ) -> tuple[PyTree, PyTree]:
        grown = 0 if halving is None else threshold * step // halving
        needed = jnp.minimum(threshold + grown, 2**13)

        def leaf(
            weight, vote: Int32[Array, "..."], rest: Int16[Array, "..."], std: int
        ):
            # Within 2^26 the product stays in int32; votes get there by design only.
            vote = jnp.clip(vote, -(2**26), 2**26) * FRACTION
            total = rest.astype(jnp.int32)
            if leak is not None:
                total = total - _divide(total, 2**leak)
            total = jnp.clip(total + _divide(vote, std), -(2**15 - 1), 2**15 - 1)
            moves = jnp.sign(total) * (jnp.abs(total) // needed)
            kept = (total - moves * needed).astype(jnp.int16)
            return _Moved(_move(weight, moves), kept)

        moved = jax.tree.map(leaf, params, votes, state, std)
        is_moved = lambda x: isinstance(x, _Moved)
        pick = lambda i: jax.tree.map(lambda x: x[i], moved, is_leaf=is_moved)
        return pick(0), pick(1)

    def init(params: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.int16), params)

    return UpdateRule(init, update)


class _Moved(NamedTuple):
    weight: Int8[Array, "..."]
    rest: Int16[Array, "..."]


def _move(
    weight: Int8[Array, "*dims"], moves: Int32[Array, "*dims"]
) -> Int8[Array, "*dims"]:
    """Returns the saturated sum, in the weight's type; what is no int8 stays."""
    if weight.dtype != jnp.int8:
        return weight
    total = weight.astype(jnp.int32) + moves
    return jnp.clip(total, -LIMIT, LIMIT).astype(jnp.int8)


def _divide(x: Int32[Array, "*dims"], by: int) -> Int32[Array, "*dims"]:
    """Returns x / by, rounded to nearest, halves away from zero."""
    return jnp.sign(x) * ((jnp.abs(x) + by // 2) // by)
