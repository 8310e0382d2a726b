"""What a step's figures say of the run: whether it goes on, and in what words."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from eggroll.training.experiment import Experiment


class Verdict(NamedTuple):
    """Something is wrong.

    Attributes:
        text: What, and what to do.
        is_fatal: Whether the run ends.
    """

    text: str
    is_fatal: bool


def of_fitness(
    row: Mapping[str, float], step: int, experiment: Experiment
) -> Verdict | None:
    """What is wrong with a step's fitness, if nothing could be learnt from it.

    Args:
        row: The figures of the step.
        step: Its number.
        experiment: That made it.
    """
    remedy = f"look into evaluate of {type(experiment.task).__name__}"
    if row.get("fitness/nonfinite") == 1:
        return Verdict(
            f"step {step}: the fitness of all {experiment.algorithm.members} members "
            "is NaN or infinite, so there is nothing to learn from: lower sigma or the "
            f"learning rate, or {remedy}",
            is_fatal=True,
        )
    if row.get("fitness/unusable") != 1:
        return None
    text = (
        f"step {step}: one member of every pair has failed, so nothing was learnt "
        f"(fitness/unusable is 1): lower sigma, or {remedy}"
    )
    if experiment.config.unusable_steps == "stop":
        return Verdict(f"{text}; or set unusable_steps to count", is_fatal=True)
    return Verdict(f"{text}; from now on such steps are counted only", is_fatal=False)


def of_parameters(step: int, saved: Sequence[int], *, is_logged: bool = False) -> str:
    """What to say of parameters that are not finite.

    Args:
        step: After which they are not.
        saved: Of which steps there are checkpoints.
        is_logged: Whether the steps between are in a log.
    """
    kept = ", ".join(map(str, saved)) or "none"
    where = f"from step {saved[-1]}, the last good checkpoint" if saved else "nothing"
    if saved and is_logged:
        where = f"(at step {step - 1}), or first `eggroll rewind` to an earlier step"
    return (
        f"step {step}: the parameters hold NaN or infinity, so they are not saved: "
        f"lower the learning rate and resume {where} (there is: {kept})"
    )


@jax.jit
def all_finite(params: PyTree) -> jax.Array:
    """Whether all floats among the parameters are finite."""
    checks = [
        jnp.all(jnp.isfinite(leaf))
        for leaf in jax.tree.leaves(params)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return jnp.all(jnp.asarray(checks))
