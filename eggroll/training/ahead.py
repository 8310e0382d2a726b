"""Steps, of which the next is under way while the host looks at what the last found.

Programs of JAX are started and not waited for. Where the host has nothing to say in a
step, the devices make another one while it writes down figures: the same steps, with
the same numbers, of which the last one may be in vain.
"""

import time
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from eggroll.training import drift, replay
from eggroll.training.experiment import Experiment, placements, writes_over
from eggroll.training.placement import settled
from eggroll.training.state import Purpose, State, key_for
from eggroll.training.verdict import all_finite


LONGEST = (
    0.5  # seconds of a step, beyond which there is little to win, and much in vain
)


class Step(NamedTuple):
    """A step that has been made.

    Attributes:
        state: After it.
        figures: Of it.
        is_finite: Whether its parameters are.
        numbers: For the log; none, if there is no log.
        seconds: That it took, or that have gone by since the one before was there.
    """

    state: State
    figures: dict[str, Any]
    is_finite: bool
    numbers: dict[str, Any]
    seconds: float


class Steps:
    """Makes the steps of a sitting."""

    def __init__(self, experiment: Experiment, start: PyTree):
        """Makes none yet.

        Args:
            experiment: Of which they are.
            start: The parameters that the run began with.
        """
        self._task, self._algorithm = experiment.task, experiment.algorithm
        self._lies = placements(experiment)
        places = {one for lie in jax.tree.leaves(self._lies) for one in lie.device_set}
        self._is_spread = len(places) > 1  # else there is nowhere else to lie
        self._diagnose_every = experiment.config.diagnose_every
        self._start = drift.outline(start) if self._diagnose_every else None
        parts = self._algorithm.parts
        self._writes_over = writes_over(experiment)
        # Several processes would have to agree on how long a step takes; and a state
        # that is written over cannot be told of.
        alone = jax.process_count() == 1 and not self._writes_over
        self._may_hurry = alone and parts is not None and parts.is_in_jax
        self._next: tuple[State, Any] | Exception | None = None
        self._took = float("inf")  # the last one
        self._since = 0.0

    def make(self, state: State, step: int, *, another: bool) -> Step:
        """Makes a step.

        Args:
            state: Before it.
            step: How many were made before.
            another: Whether the next one follows at once, for all that is known.
        """
        begun, self._next = self._next, None
        if isinstance(begun, Exception):
            raise begun
        started = self._since if begun else time.perf_counter()
        after, told = begun or self._begin(state, step)
        if another and self._may_hurry and self._took < LONGEST:
            try:
                self._next = self._begin(after, step + 1)
            except Exception as error:  # of a step that may never be due
                self._next = error
        figures, is_finite, numbers = _fetched(told)
        self._since = time.perf_counter()
        self._took = self._since - started
        return Step(after, figures, bool(is_finite), numbers, self._took)

    def _begin(self, state: State, step: int) -> tuple[State, Any]:
        """Starts a step; its state, and what is to be told of it."""
        key = key_for(state.key, Purpose.BATCH, step)
        data = self._task.batch(state.task, step, key)
        after, figures, numbers = replay.stepped(
            self._algorithm, state, data, over=self._writes_over
        )
        if self._is_spread:
            after = settled(after, self._lies)
        if self._start is not None and step % self._diagnose_every == 0:
            far = drift.distance(self._start, after.params)
            figures = figures | {"parameters/drift": far}
        return after, (figures, all_finite(after.params), numbers)


def _fetched(tree: PyTree) -> PyTree:
    """What `jax.device_get` returns.

    It asks for a copy of each array first, which takes ten times as long as to read
    it, where that is on the host.
    """
    if jax.default_backend() != "cpu":
        return jax.device_get(tree)
    read = lambda x: np.asarray(x) if isinstance(x, jax.Array) else x
    return jax.tree.map(read, tree)
