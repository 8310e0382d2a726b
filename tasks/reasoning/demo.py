"""The demonstration: a language model learns to answer, from what a program says.

    python -m tasks.reasoning.demo configs/reasoning/demo.yaml --checkpoint FILE

Answers the same held-out prompts before and after evolution, prints some of the
answers, and fails unless the mean reward rose by more than three standard errors.
"""

import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, PyTree

from eggroll.config import load
from eggroll.runs import create, curves
from eggroll.training import initial_state, prepare, train
from models.llm.generation import GREEDY
from tasks.reasoning import held_out
from tasks.reasoning.rows import Row, check_disjoint
from tasks.reasoning.task import Reasoning


MARGIN = 3.0  # standard errors
SHOWN = 8  # prompts


class Answers(NamedTuple):
    """What a model says to held-out prompts.

    Attributes:
        texts: the likeliest completion of each.
        rewards: that it gets.
    """

    texts: list[str]
    rewards: Float[np.ndarray, " prompts"]


class Gain(NamedTuple):
    """By how much rewards rose.

    Attributes:
        mean: of the differences, prompt by prompt.
        error: its standard error, of the choice of prompts alone: a prompt's own
            difficulty, the same before and after, is none of it.
    """

    mean: float
    error: float

    @property
    def is_sure(self) -> bool:
        """Whether it is more than chance among prompts explains."""
        return self.mean > MARGIN * self.error


def main(arguments: Sequence[str]) -> int:
    """Runs the demonstration.

    Args:
        arguments: a config, then pairs of settings that it shall change.

    Returns:
        0 if the model learnt enough, else 1.
    """
    path, *changes = arguments
    pairs = zip(changes[0::2], changes[1::2], strict=True)
    overrides = [(name.removeprefix("--"), value) for name, value in pairs]
    config = load(path, overrides, name="demo-reasoning")
    experiment = prepare(config)
    task = experiment.task
    assert isinstance(task, Reasoning)
    check_disjoint(task.data)
    rows = held_out.rows_of(task)
    say(f"{len(rows)} prompts are held out; none of them is among those to learn from")
    before = answers(task, initial_state(experiment).params)
    write(rows, before, "before")
    run = create(config)
    outcome = train(experiment, run, report=say)
    after = answers(task, outcome.state.params)
    write(rows, after, "after")
    found = gain(before.rewards, after.rewards)
    say(f"curve: {curves.curve(run, task)}")
    say(
        f"mean reward {before.rewards.mean():.3f} before, {after.rewards.mean():.3f} "
        f"after {outcome.progress.seconds:.0f} s: {found.mean:+.3f} with a "
        f"standard error of {found.error:.3f}; wanted: more than {MARGIN:.0f} of them"
    )
    return int(not found.is_sure)


def answers(task: Reasoning, params: PyTree) -> Answers:
    """Lets a model answer the held-out prompts, and scores that."""
    rows = held_out.rows_of(task)
    done = held_out.completed(task, params, rows, GREEDY, jax.random.key(0))
    return Answers(task.texts(done), task.scored(done, rows).scores)


def gain(
    before: Float[np.ndarray, " prompts"], after: Float[np.ndarray, " prompts"]
) -> Gain:
    """Compares rewards on the same prompts.

    Raises:
        ValueError: they are fewer than two, or not as many before as after.
    """
    if before.shape != after.shape or before.size < 2:
        raise ValueError(
            "expected rewards of the same two prompts or more, got "
            f"{before.size} before and {after.size} after"
        )
    difference = after - before
    error = difference.std(ddof=1) / np.sqrt(difference.size)
    return Gain(float(difference.mean()), float(error))


def write(rows: Sequence[Row], found: Answers, when: str) -> None:
    """Prints some prompts with what a model says to them, and the mean reward."""
    say(f"--- {when}: mean reward {found.rewards.mean():.3f} ---")
    for row, text, reward in zip(
        rows[:SHOWN], found.texts, found.rewards, strict=False
    ):
        asked = row.prompt if isinstance(row.prompt, str) else row.prompt[-1]["content"]
        say(f"{asked!r} -> {text!r}: {reward:g}")
    say("---")


def say(text: str) -> None:
    """Writes a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
