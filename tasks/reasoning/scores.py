"""From the rewards of completions to the fitness of members; plain arithmetic."""

import math
from typing import Literal

import numpy as np
from jaxtyping import Float, Int


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
