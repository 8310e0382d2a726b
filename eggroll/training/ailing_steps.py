"""What may be wrong with noise and steps, one function a sickness."""

import numpy as np

from eggroll.training.case import Case, Finding, improves, is_noise


# Half a unit in the last place, relative to the number: what is added and is smaller
# vanishes. Of float32 eight times as much, since fitness sums many rounded numbers.
ROUNDING = {"bfloat16": 2.0**-9, "float32": 2.0**-21}


def nothing_moves(case: Case) -> Finding | None:
    """Gradients that come to nothing."""
    norms, moves = case.of("gradient/norm"), case.of("update/ratio")
    if not (len(moves) and norms.any()) or np.mean(moves == 0) < 0.9:
        return None
    return Finding(
        "nothing moves",
        "there are gradients, and no parameter moves",
        "is the learning rate 0, or does a rule or the optimiser freeze all that has a "
        "gradient? `eggroll info` has the table",
    )


def sigma_too_small(case: Case) -> Finding | None:
    """Perturbations that rounding swallows."""
    precision = case.settings.get("precision", "float32")
    share = case.sigma / case.late("parameters/rms")
    if not share < ROUNDING.get(precision, 0.0):
        return None
    return Finding(
        "sigma too small",
        f"sigma is {share:.1g} of the weights' size: {precision} rounds most of what "
        "it changes away",
        f"raise sigma to {4 * ROUNDING[precision] / share * case.sigma:.1g} at least"
        ", or keep the parameters in float32" * (precision != "float32"),
    )


def sigma_too_large(case: Case) -> Finding | None:
    """Members that have little in common with the parameters, now and later."""
    share = min(case.sigma, case.final_sigma) / case.late("parameters/rms")
    if not (share > 3 and is_noise(case) and not improves(case)):
        return None
    return Finding(
        "sigma too large",
        f"sigma is {share:.1f} times the weights' size, and the two halves of the "
        "population agree on nothing: members have lost what the parameters know",
        "lower sigma to the weights' size or below: `eggroll probe` shows where there "
        "is a signal",
    )


def learning_rate_too_high(case: Case) -> Finding | None:
    """Steps far beyond where members have looked."""
    moves, sigma = case.move, case.sigma
    if not moves > 2 * sigma:
        return None
    return Finding(
        "learning rate too high",
        f"a step moves each weight by {moves / sigma:.1f} sigma: the gradient is known "
        "for about one sigma around",
        f"lower the learning rate by {moves / sigma / 0.3:.0f} times, to steps of a "
        "third of sigma",
    )


def too_slow(case: Case) -> Finding | None:
    """Steps too small to get anywhere."""
    moves, sigma = case.move, case.sigma
    if not (0 < moves < 1e-4 * sigma and case.steps >= 20) or improves(case):
        return None
    return Finding(
        "learning rate too low",
        f"a step moves each weight by {moves / sigma:.1g} sigma, and fitness has not "
        "risen",
        "raise the learning rate, to steps of a tenth of sigma",
    )


def one_leaf(case: Case) -> Finding | None:
    """A leaf that runs away from the others."""
    largest, all_of_them = case.late("update/largest"), case.late("update/ratio")
    heights = case.of("parameters/largest")
    is_leaping = largest > 1 and largest > 5 * all_of_them
    growth = heights[-1] / heights[0] if len(heights) else 0.0
    if not (is_leaping or growth > 10):
        return None
    what = "update/leaf" if is_leaping else "parameters/leaf"
    number = int(case.late(what))
    name = case.leaves[number] if number < len(case.leaves) else f"number {number}"
    how = (
        f"moves by {largest:.1f} times its own size in a step, all parameters together "
        f"by {all_of_them:.2g} of theirs"
        if is_leaping
        else f"has grown to {heights[-1]:.0f} times the size of the others"
    )
    return Finding(
        "one leaf explodes",
        f"the leaf {name} {how}",
        f"look at the rule and the initial size of {name}, and whether fitness has a "
        "bound in it; decay it (adamw), scale it down, or freeze it by a rule",
    )


def noise_reused(case: Case) -> Finding | None:
    """Noise that never changes."""
    reuse = case.strategy("noise_reuse", 1)
    planned = (case.settings.get("budget") or {}).get("generations") or 0
    steps = max(case.steps, planned)
    if not (case.steps >= 10 and reuse * 4 > steps):
        return None
    return Finding(
        "noise reused",
        f"noise is drawn once in {reuse} steps, and there are {steps}: the search "
        "stays in the span of the same few directions",
        "set strategy.noise_reuse to 1, or a few: it pays where drawing costs much",
    )


def sigma_ran_away(case: Case) -> Finding | None:
    """An adaptation that found no hold."""
    sigma = case.of("sigma")
    if len(sigma) < 2 or 1e-3 < sigma[-1] / sigma[0] < 1e3:
        return None
    way = "grown" if sigma[-1] > sigma[0] else "shrunk"
    return Finding(
        "sigma ran away",
        f"sigma has {way} from {sigma[0]:.2g} to {sigma[-1]:.2g}",
        "bound it by the options of sigma_adaptation, or leave that out",
    )


def updates_lost(case: Case) -> Finding | None:
    """Updates smaller than rounding."""
    lost = case.late("update/lost")
    # With a master copy what is handed on is the difference of rounded weights.
    if not lost > 0.5:
        return None
    return Finding(
        "updates lost",
        f"rounding swallows {lost:.0%} of the updates",
        "raise the learning rate, or keep a float32 master copy "
        "(eggroll.with_master_weights; precision: bfloat16 has one)",
    )


def saturated(case: Case) -> Finding | None:
    """Integer weights at the end of their range."""
    share = case.late("weights/saturated")
    if not share > 0.3:
        return None
    return Finding(
        "weights saturated",
        f"{share:.0%} of the integer weights are at the end of their range",
        "raise task.stepping.threshold, or let it grow sooner (halving)",
    )


def never_moves(case: Case) -> Finding | None:
    """Integer weights that no vote moves."""
    changed = case.of("update/changed")
    if not len(changed) or changed.any():
        return None
    return Finding(
        "no weight moves",
        "no integer weight has moved in any step",
        "lower task.stepping.threshold, or raise the population",
    )
