"""What may be wrong with fitness, one function a sickness."""

import numpy as np

from eggroll.training.case import Case, Finding, improves, is_noise, trend


def failing(case: Case) -> Finding | None:
    """Members whose fitness is no number."""
    failed, unusable = case.late("fitness/nonfinite"), case.late("fitness/unusable")
    if not (failed > 0.1 or unusable > 0.5):
        return None
    return Finding(
        "failing members",
        f"{failed:.0%} of the members fail (NaN or infinite fitness), and with their "
        f"partners {unusable:.0%} count for nothing",
        "lower sigma or the learning rate; look for divisions, logarithms and "
        "overflows in the task's evaluate",
    )


def constant_fitness(case: Case) -> Finding | None:
    """Fitness that does not depend on the parameters."""
    spread, tied = case.of("fitness/spread"), case.of("fitness/tied")
    is_of_one = len(tied) and not tied.any()  # as gradients, which need no others
    if not len(spread) or spread.any() or is_of_one:
        return None
    return Finding(
        "constant fitness",
        "all members of each generation have the same fitness, so that there is "
        "nothing to learn from",
        "check that fitness depends on the parameters (no rounding, no best case that "
        "all reach); raise sigma until members differ: `eggroll probe` shows where",
    )


def nearly_equal(case: Case) -> Finding | None:
    """Rewards that tell hardly any two members apart, though there are better ones."""
    names = "tied", "best", "worst", "median", "spread"
    rows = [row for row in case.rows if all(f"fitness/{n}" in row for n in names)]
    if not rows or constant_fitness(case):
        return None
    tied, best, worst, median, spread = (
        np.array([row[f"fitness/{name}"] for row in rows]) for name in names
    )
    width = best - worst
    is_flat = (tied >= 0.9) & (spread <= 0.15 * width)  # of two values, 1 in 43 differs
    is_solved = median >= np.maximum.accumulate(best)
    if np.mean(is_flat & ~is_solved) < 0.7:
        return None
    return Finding(
        "rewards nearly equal",
        f"in most steps nearly all members have the same fitness ({np.median(tied):.0%}"
        " are tied), so that a few decide all",
        "give partial credit, or begin with easier data; average over more episodes or "
        "prompts a member; raise population or sigma: `eggroll probe` shows how far",
    )


def weightless(case: Case) -> Finding | None:
    """Fitness that differs, and weights that do not, from the first steps on.

    Where they did at first, it may be that all members have learnt the same.
    """
    differing = case._replace(rows=[x for x in case.rows if x.get("fitness/spread")])
    largest, norms = differing.of("shaped/largest"), differing.of("gradient/norm")
    is_void = lambda x: len(x) and min(np.mean(x == 0), np.mean(x[:5] == 0)) > 0.7
    if not (is_void(largest) or is_void(norms)) or nearly_equal(case):
        return None
    return Finding(
        "nothing to compare",
        "members differ in fitness, but there is no gradient: within each group that "
        "is compared, or each pair, all are alike",
        "let more members read the same data: larger groups, a larger population, or "
        "fewer prompts; groups.size must be that of those who read the same",
    )


def sign_flipped(case: Case) -> Finding | None:
    """Fitness that goes up while what is wanted gets worse."""
    headline = next(
        (k for row in case.rows for k in row if k.startswith("validation/")), ""
    )
    wanted = case.of(headline) * (1 if case.maximise else -1)
    if not (trend(case.of("fitness/mean")) > 4 and trend(wanted) < -4):
        return None
    return Finding(
        "sign flipped",
        f"fitness rises, and {headline.removeprefix('validation/')} gets worse",
        "fitness is maximised: return minus a loss; look whether `maximise` of the "
        "task says which way the headline metric is better",
    )


def few_decide(case: Case) -> Finding | None:
    """Outliers that outweigh all others."""
    effective = case.late("shaped/effective")
    if not effective < 0.05 or case.late("fitness/tied") > 0.5:
        return None
    return Finding(
        "few decide all",
        f"the update is worth {effective:.1%} of the members: a few outliers outweigh "
        "the others",
        "choose shaping: centred_rank, which no outlier moves",
    )


def no_signal(case: Case) -> Finding | None:
    """Gradients of nothing but noise."""
    if not (len(case.of("gradient/agreement")) >= 8 and is_noise(case)):
        return None
    if improves(case):
        return None
    return Finding(
        "no signal",
        "the gradients of the population's halves have nothing in common, and fitness "
        "has not risen",
        "raise the population, or average fitness over more data a member; try another "
        "sigma: `eggroll probe` shows where the signal is largest",
    )
