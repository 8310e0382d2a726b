"""Proximal policy optimisation, the baseline for the tasks of `Control`.

The same environments, networks, observation statistics and validation as evolution has;
the optimiser is the config's. One update is one round of trajectories.

References:
    Schulman et al., "Proximal Policy Optimization Algorithms" (2017),
    https://arxiv.org/abs/1707.06347; details as in Huang et al., "The 37 Implementation
    Details of Proximal Policy Optimization" (2022).
"""

import functools
from typing import Any, Protocol

from jaxtyping import PRNGKeyArray, PyTree

from eggroll.config import Config
from eggroll.evolution import compilers
from eggroll.training import Algorithm, Metrics, State
from tasks.control.environment import Environment
from tasks.control.ppo_learner import Kept, Learner, PolicyTask
from tasks.control.ppo_settings import PPOSettings as PPOSettings
from tasks.control.trajectories import Workers, collect, start


class InJax(PolicyTask, Protocol):
    """A task whose environment runs in JAX."""

    @property
    def env(self) -> Environment: ...


def algorithm(task: InJax, config: Config) -> Algorithm:
    """Return PPO on the environment of a `Control` task.

    Raises:
        UserError: if the task has a team of agents or a recurrent network.
    """
    learner, settings = Learner(task, config), task.ppo

    def begin(key: PRNGKeyArray) -> Workers:
        return start(task.env, key, settings.workers)

    def init(params: PyTree) -> Kept:
        return learner.init(params, begin)

    def step(state: State, data: Any) -> tuple[State, Metrics]:
        del data
        collect_key, learn_key = learner.keys(state)
        workers, steps = collect(
            task.env,
            functools.partial(learner.choose, learner.learnt(state), state.task),
            state.opt_state.workers,
            collect_key,
            steps=settings.steps,
            step_limit=task.step_limit_at(state.step),
        )
        return learner.step(state, workers, steps, learn_key)

    return Algorithm(init, compilers.jit(step), 1, trial=step)
