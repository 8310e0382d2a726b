"""How often rewards of 0 and 1 will say nothing, from the share that is solved.

A pair of members whose rewards are equal, or a group of equal ones, moves nothing. What
that costs is known before a run (the question is that of Cho and Han, arXiv 2607.19408;
the formulas follow from the binomial distribution).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def tied_share(
    rates: float | Sequence[float] | Float[np.ndarray, " rates"],
    batch: int,
    correlation: float = 0.0,
) -> float:
    r"""The chance that both members of a pair solve equally many prompts of a batch.

    On a prompt that is solved with chance p, each member is better than the other with
    chance $a = p (1 - p) (1 - \rho)$. The difference over the batch is a sum of
    independent steps of 1, 0 and -1; for one p its chance of being 0 is
    $\sum_k \frac{B!}{k!\,k!\,(B - 2k)!} a^{2k} (1 - 2a)^{B - 2k}$.

    Args:
        rates: the share of members that solve a prompt: one for all, or one for each of
            some prompts, of which the batch is a draw with replacement.
        batch: prompts that both members answer.
        correlation: between what the two make of a prompt, beyond its rate: 1 where a
            perturbation changes nothing.

    Raises:
        ValueError: a rate or the correlation is not between 0 and 1, or there is no
            prompt.
    """
    rates = np.atleast_1d(np.asarray(rates, np.float64))
    if not rates.size or not np.all((rates >= 0) & (rates <= 1)):
        raise ValueError(f"rates must be shares between 0 and 1, got {rates}")
    if not 0 <= correlation <= 1:
        raise ValueError(f"correlation must be between 0 and 1, got {correlation}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    better = float(np.mean(rates * (1 - rates))) * (1 - correlation)
    step = np.asarray([better, 1 - 2 * better, better])
    total = np.ones(1)
    for _ in range(batch):
        total = np.convolve(total, step)
    return float(total[batch])


def silent_generation(tied: float, pairs: int) -> float:
    """The chance that all pairs are tied, so that a whole generation says nothing."""
    return float(tied**pairs)


def silent_group(
    rates: float | Sequence[float] | Float[np.ndarray, " rates"], size: int
) -> float:
    """The chance that a prompt's answers are all right or all wrong, as for GRPO."""
    rates = np.atleast_1d(np.asarray(rates, np.float64))
    return float(np.mean(rates**size + (1 - rates) ** size))


def prediction(
    rate: float, batch: int, pairs: int, correlation: float = 0.0
) -> dict[str, float]:
    """What to expect of a run whose members solve a share `rate` of the prompts.

    Returns:
        `rate`; `tied`, the predicted share of pairs that say nothing; `speaking`, how
        many pairs a generation will have that say something; `silent`, the chance that
        it has none.
    """
    tied = tied_share(rate, batch, correlation)
    return {
        "rate": rate,
        "tied": tied,
        "speaking": pairs * (1 - tied),
        "silent": silent_generation(tied, pairs),
    }


def told(solved: int, answers: int, batch: int, pairs: int) -> str:
    """What a base rate, of so many solved of so many answers, lets expect of a run."""
    rate = solved / answers
    error = (rate * (1 - rate) / answers) ** 0.5
    found = prediction(rate, batch, pairs)
    return (
        f"base rate {rate:.1%} +- {error:.1%} ({solved} of {answers} solved): with "
        f"{batch} prompts a step, {found['tied']:.1%} of pairs would be tied and say "
        f"nothing, so that {found['speaking']:.1f} of {pairs} speak; a whole step is "
        f"silent with a chance of {found['silent']:.2g}. (Of a reward of 0 and 1, and "
        "of members that are independent of each other; those alike tie more often.)"
    )
