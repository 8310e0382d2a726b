"""A run's settings turned into what is needed to train or evaluate it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from eggroll import algorithms, build, metrics
from eggroll.algorithms import Algorithm
from eggroll.check import check_evaluation
from eggroll.config import Config
from eggroll.state import Purpose, State, key_for
from eggroll.task import Task


class Experiment(NamedTuple):
    """A task and the algorithm that learns it.

    Attributes:
        config: What it was made from.
        task: What is learnt.
        algorithm: How.
    """

    config: Config
    task: Task
    algorithm: Algorithm


def prepare(config: Config) -> Experiment:
    """Builds and checks all that the settings describe; computes almost nothing.

    Raises:
        UserError: Something in the settings or in the task is wrong.
    """
    build.mesh(config)
    metrics.check_sinks(config)
    task = build.task(config)
    algorithm = algorithms.find(task, config)
    check_evaluation(task, algorithm.members)
    experiment = Experiment(config, task, algorithm)
    data = task.batch(task.initial_state(), 0, jax.random.key(config.seed))
    with build.blaming("strategy"):
        jax.eval_shape(
            algorithm.trial, jax.eval_shape(lambda: _state(experiment)), data
        )
    return experiment


def initial_state(experiment: Experiment) -> State:
    """The state before the first step, laid out over the devices."""
    config, _, algorithm = experiment
    mesh = build.mesh(config)
    everywhere = NamedSharding(mesh, PartitionSpec())
    # A carry that is none of the population's, as of `backprop`, cannot be split.
    is_split = algorithm.members % mesh.size == 0
    by_member = NamedSharding(mesh, PartitionSpec("population"))
    state = jax.device_put(_state(experiment), everywhere)
    return state._replace(
        carry=jax.device_put(state.carry, by_member if is_split else everywhere)
    )


def _state(experiment: Experiment) -> State:
    config, task, algorithm = experiment
    key = jax.random.key(config.seed)
    params = build.precise(config, task.init(key_for(key, Purpose.INIT)))
    return State(
        params=params,
        opt_state=algorithm.init(params),
        step=jnp.int32(0),
        key=key,
        task=jax.tree.map(jnp.asarray, task.initial_state()),
        carry=jax.tree.map(jnp.asarray, task.initial_carry(algorithm.members)),
    )
