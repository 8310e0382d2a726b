"""Everything that changes during a run, as one pytree, and the keys drawn from it."""

import enum
import functools
from typing import Any, NamedTuple, Self

import jax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree


class State(NamedTuple):
    """What the next step needs, and all of it: saving this saves the run.

    Attributes:
        params: The mean of the population.
        opt_state: What the algorithm keeps between steps.
        step: How many steps were made.
        key: The base key. It never changes: each use folds in its purpose and step, so
            that any step can be repeated alone.
        task: What the members share and learn together.
        carry: What each member keeps from step to step.
    """

    params: PyTree
    opt_state: PyTree
    step: Int[Array, ""]
    key: PRNGKeyArray
    task: PyTree
    carry: PyTree

    def advanced(self, **changes: Any) -> Self:
        """The state after a step that changed so much."""
        return self._replace(step=self.step + 1, **changes)


class Purpose(enum.IntEnum):
    """What a key is for; the numbers are part of every result."""

    INIT = 0
    NOISE = 1
    BATCH = 2
    VALIDATE = 3
    CONFIRM = 4
    EVALUATE = 5
    CENTRE = 6


@functools.partial(jax.jit, static_argnames="purpose")  # two programs would run else
def key_for(
    key: PRNGKeyArray, purpose: Purpose, step: int | Int[Array, ""] = 0
) -> PRNGKeyArray:
    """The key for one purpose at one step."""
    return jax.random.fold_in(jax.random.fold_in(key, purpose), step)
