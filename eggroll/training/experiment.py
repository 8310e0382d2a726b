"""A run's settings turned into what is needed to train or evaluate it."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from eggroll.config.schema import Config
from eggroll.evolution.buffers import bytes_of
from eggroll.evolution.footprint import Footprint, footprint
from eggroll.runs import metrics
from eggroll.task.check import check_evaluation, first_batch, numbers, validate
from eggroll.task.protocol import Task, rows
from eggroll.training import algorithms, donation, instantiate, placement
from eggroll.training.algorithms import Algorithm
from eggroll.training.state import Purpose, State, key_for


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
    instantiate.mesh(config)
    metrics.check_sinks(config)
    task = instantiate.task(config)
    algorithm = algorithms.find(task, config)
    data = first_batch(task)
    members = algorithm.members or rows(data, task.data_axes)
    check_evaluation(task, members, data)
    experiment = Experiment(config, task, algorithm._replace(members=members))
    with instantiate.blaming("strategy"):
        like = functools.partial(_state, experiment)
        state = jax.eval_shape(like, task.params_like())
        jax.eval_shape(algorithm.trial, state, data)
    placement.of_state(config, state, members)
    return experiment


def validated(
    experiment: Experiment, state: State, key: PRNGKeyArray
) -> dict[str, float]:
    """Metrics of what a state has learnt, the headline one first."""
    _, task, algorithm = experiment
    if algorithm.validate is not None:
        return numbers(task, algorithm.validate(state, key))
    return validate(task, state.params, state.task, key)


def initial_state(experiment: Experiment) -> State:
    """The state before the first step, laid out over the devices."""
    config, task, _ = experiment
    params = task.init(key_for(jax.random.key(config.seed), Purpose.INIT))
    return placement.placed(_state(experiment, params), placements(experiment))


def own_state(experiment: Experiment) -> State:
    """The state before the first step, for steps that may write over it.

    It shares no large array with the task, which may have its parameters at hand.
    """
    state = initial_state(experiment)
    return donation.apart(state) if writes_over(experiment) else state


def placements(experiment: Experiment) -> Any:
    """Where each array of the state lies: a `State` of shardings."""
    like = like_of(experiment)
    return placement.of_state(experiment.config, like, experiment.algorithm.members)


def like_of(experiment: Experiment) -> State:
    """The shapes and types of the state."""
    make = functools.partial(_state, experiment)
    return jax.eval_shape(make, experiment.task.params_like())


def writes_over(experiment: Experiment) -> bool:
    """Whether the steps of a run write over the state that they begin with."""
    algorithm = experiment.algorithm
    made = algorithm.step_over or (algorithm.parts and algorithm.parts.learn_over)
    return made is not None and donation.is_worth(like_of(experiment))


def memory(experiment: Experiment) -> Footprint:
    """What a step takes of each device, told from its trace: its larger program.

    What is divided among devices along other axes than the population's counts whole,
    if it is computed in between.
    """
    like = like_of(experiment)
    lies = jax.tree.leaves(placements(experiment))
    arrays = zip(jax.tree.leaves(like), lies, strict=True)
    part = lambda x, lie: math.prod(lie.shard_shape(x.shape)) * x.dtype.itemsize
    elsewhere = sum(bytes_of(x) - part(x, lie) for x, lie in arrays)
    algorithm, given = experiment.algorithm, experiment.task.batch_like()
    programs = (algorithm.parts and algorithm.parts.programs) or (algorithm.trial,)
    every, kept = [], (like.params, like.opt_state)
    over = len(jax.tree.leaves(kept)) if writes_over(experiment) else 0
    for program in programs:  # the second takes what the first one found
        traced, found = jax.make_jaxpr(program, return_shape=True)(like, given)
        is_last = isinstance(found[0], State)
        taken, given = footprint(traced, over if is_last else 0), found
        returned = elsewhere if is_last and not over else 0
        every.append(
            taken._replace(
                arguments=taken.arguments - elsewhere, results=taken.results - returned
            )
        )
    return max(every, key=lambda one: one.peak)


def _state(experiment: Experiment, params: PyTree) -> State:
    config, task, algorithm = experiment
    params = instantiate.precise(config, params)
    return State(
        params=params,
        opt_state=algorithm.init(params),
        step=jnp.int32(0),
        key=jax.random.key(config.seed),
        task=jax.tree.map(jnp.asarray, task.initial_state()),
        carry=jax.tree.map(jnp.asarray, task.initial_carry(algorithm.members)),
    )
