"""The members that a run evaluates, found again outside its loop."""

import dataclasses

from eggroll.errors import UserError
from eggroll.evolution.generation import Generation
from eggroll.evolution.strategy import EvolutionStrategy
from eggroll.task.check import first_batch
from eggroll.training.algorithms import ADAPTING
from eggroll.training.experiment import Experiment
from eggroll.training.halves import Adapting
from eggroll.training.state import Purpose, State, key_for


def generation_of(
    experiment: Experiment, state: State
) -> tuple[EvolutionStrategy, Generation]:
    """Returns the generation that a run evaluates next, and the strategy that asks.

    Args:
        experiment: of the run.
        state: where it is.

    Raises:
        UserError: the run's algorithm perturbs no members, or in another way.
    """
    config, task, algorithm = experiment
    strategy = algorithm.strategy
    if strategy is None:
        raise UserError(
            f"algorithm: {config.algorithm!r} has no members that could be drawn "
            f"again; {' and '.join(ADAPTING)} have"
        )
    if isinstance(state.opt_state, Adapting):
        sigma = state.opt_state.sigma.sigma
        strategy = dataclasses.replace(strategy, sigma=sigma)  # pyrefly: ignore[bad-argument-type]

    def member(params, data, carry, *, key):
        return task.evaluate(params, data, carry, key)

    plan = strategy.generation(member, in_axes=(task.data_axes, 0))
    noise = key_for(state.key, Purpose.NOISE)
    data = first_batch(task)  # of which the shapes matter
    return strategy, plan(state.params, noise, data, state.carry, step=state.step)
