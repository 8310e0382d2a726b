"""From the rewards of completions to the fitness of members; plain arithmetic."""

import math
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def best_of(
    rewards: Float[np.ndarray, "*dims samples"], k: int
) -> Float[np.ndarray, "*dims"]:
    r"""The expected largest of `k` samples, drawn from all without replacement.

    $\sum_i \binom{i-1}{k-1} r_{(i)} / \binom{n}{k}$, where $r_{(i)}$ is the i-th
    smallest of n: the mean for k = 1, the largest for k = n, and the unbiased estimate
    of pass@k where rewards are 0 or 1.

    Raises:
        ValueError: k is not from 1 to the number of samples.
    """
    rewards = np.sort(np.asarray(rewards, np.float64), axis=-1)
    count = rewards.shape[-1]
    _within(k, count)
    ways = [math.comb(i, k - 1) / math.comb(count, k) for i in range(count)]
    return rewards @ np.asarray(ways)


def pass_at_k(
    solved: Int[np.ndarray, "*dims"] | int, samples: int, k: int
) -> Float[np.ndarray, "*dims"]:
    r"""The chance that one of `k` samples solves a problem of which some were solved.

    $1 - \binom{n-c}{k} / \binom{n}{k}$ for c of n samples, unbiased. Where n < k there
    is no such estimate: the formula as it stands would say 1, even for c = 0.

    References:
        Chen et al., arXiv 2107.03374, equation 1.

    Raises:
        ValueError: k is not from 1 to the number of samples, or more are solved than
            there are.
    """
    _within(k, samples)
    solved = np.asarray(solved)
    if np.any((solved < 0) | (solved > samples)):
        raise ValueError(f"expected 0 to {samples} solved samples, got {solved}")
    chances = [
        1 - math.comb(samples - c, k) / math.comb(samples, k)
        for c in range(samples + 1)
    ]
    return np.asarray(chances)[solved]


def _within(k: int, samples: int) -> None:
    if not 1 <= k <= samples:
        raise ValueError(
            f"k must be from 1 to the {samples} samples of a prompt, got {k}: draw "
            "more samples, or take a smaller k"
        )


def aggregated(
    rewards: Float[np.ndarray, "*dims samples"], how: str, solved: float = 1.0
) -> Float[np.ndarray, "*dims"]:
    """What the samples of a prompt are worth together.

    Args:
        rewards: of each sample.
        how: "mean", "max", or "pass@K", the estimated share of solved prompts with K
            samples each.
        solved: the reward from which on a sample has solved its prompt.

    Raises:
        ValueError: for another word, or fewer samples than K.
    """
    rewards = np.asarray(rewards, np.float64)
    name, _, k = how.partition("@")
    if how == "mean":
        return best_of(rewards, 1)
    if how == "max":
        return best_of(rewards, rewards.shape[-1])
    if name == "pass" and k.isascii() and k.isdigit():
        return best_of(rewards >= solved, int(k))
    raise ValueError(f"the aggregator must be mean, max or pass@K, got {how!r}")


def prompt_wise(
    rewards: Float[np.ndarray, "members prompts"],
    divide: Literal["nothing", "all", "prompt"] = "nothing",
) -> Float[np.ndarray, " members"]:
    """The mean over prompts of rewards that are centred on each prompt's own mean.

    Centred alone, it is the centred mean reward: what counts is the division, by which
    prompts become equally heavy.

    Args:
        rewards: of each member on each prompt, the same prompts for all.
        divide: by "nothing"; by the standard deviation of "all" the centred rewards; or
            by that of each "prompt". Where there is none, the result is zero.

    Raises:
        ValueError: for another word.
    """
    rewards = np.asarray(rewards, np.float64)
    centred = rewards - rewards.mean(axis=0, keepdims=True)
    if divide not in ("nothing", "all", "prompt"):
        raise ValueError(f"divide must be nothing, all or prompt, got {divide!r}")
    # Of equal rewards the mean may be another number by a rounding.
    centred[:, np.ptp(rewards, axis=0) == 0] = 0
    if divide != "nothing":
        axis = None if divide == "all" else 0
        spread = np.sqrt(np.mean(centred**2, axis=axis, keepdims=True))
        centred = np.where(spread > 0, centred / np.where(spread > 0, spread, 1), 0)
    return centred.mean(axis=1)


def tied_pairs(fitness: Float[np.ndarray, " members"]) -> float:
    """The share of antithetic pairs, members 2p and 2p + 1, that are equally fit.

    They say nothing. A pair of which one is no number counts as none.
    """
    plus, minus = np.asarray(fitness)[0::2], np.asarray(fitness)[1::2]
    counts = np.isfinite(plus) & np.isfinite(minus)
    return float(np.mean((plus == minus)[counts])) if counts.any() else 0.0


class Baseline(NamedTuple):
    """What fitness was of late; a pytree, to be kept in the state of a task.

    Attributes:
        weight: how much has come in, from 0 towards 1.
        mean: of fitness, times `weight`.
        square: the mean of its squares, times `weight`.
    """

    weight: Float[Array, ""]
    mean: Float[Array, ""]
    square: Float[Array, ""]


def baseline_init() -> Baseline:
    """A baseline that has seen nothing."""
    return Baseline(*(jnp.zeros((), jnp.float32) for _ in range(3)))


def baseline_update(
    baseline: Baseline, fitness: Float[Any, " members"], half_life: float
) -> Baseline:
    """The baseline after a generation; pure JAX.

    Args:
        baseline: before.
        fitness: of the members; those that are no numbers are left out.
        half_life: generations after which one counts half as much.
    """
    fitness = jnp.asarray(fitness, jnp.float32)
    counts = jnp.isfinite(fitness)
    keep = jnp.where(jnp.any(counts), 0.5 ** (1 / half_life), 1.0)
    total = jnp.maximum(jnp.sum(counts), 1)
    mean = lambda values: jnp.sum(jnp.where(counts, values, 0)) / total
    seen = Baseline(jnp.float32(1), mean(fitness), mean(fitness**2))
    return Baseline(
        *(
            keep * old + (1 - keep) * new
            for old, new in zip(baseline, seen, strict=True)
        )
    )


def against(
    baseline: Baseline, fitness: Float[Any, " members"]
) -> Float[Array, " members"]:
    """Fitness as a deviation from the baseline, in its standard deviations.

    Unlike a z-score over the members at hand, which two of them pass with weights of 1
    and -1 whatever their difference, it tells a large difference from a small one. A
    baseline that has not varied, or has seen nothing, gives zeros: update it first.
    """
    fitness = jnp.asarray(fitness, jnp.float32)
    whole = jnp.where(baseline.weight > 0, baseline.weight, 1)
    mean = baseline.mean / whole
    variance = baseline.square / whole - mean**2
    # What rounding leaves of the variance of equal numbers is none.
    varies = variance > 1e-6 * jnp.maximum(baseline.square / whole, 1e-30)
    scaled = (fitness - mean) / jnp.sqrt(jnp.where(varies, variance, 1))
    return jnp.where(varies, scaled, jnp.where(jnp.isfinite(fitness), 0, jnp.nan))
