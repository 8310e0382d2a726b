"""Ways to learn, each a pair of pure functions over one state.

`eggroll` and `openes` are one code path that differs in the rank of the perturbations;
`backprop` is the baseline for tasks whose fitness has a true gradient. A task may offer
others; what they keep between steps is theirs, in `State.opt_state`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Num, PyTree

from eggroll.config.coercion import unknown
from eggroll.config.schema import Config
from eggroll.errors import UserError
from eggroll.evolution import shaping
from eggroll.evolution.estimate import narrowed
from eggroll.evolution.generation import Generation
from eggroll.evolution.leaves import filled
from eggroll.evolution.validation import one_per_member
from eggroll.task.protocol import Task, rows
from eggroll.training import diagnostics, instantiate
from eggroll.training.state import Purpose, State, key_for


Metrics = dict[str, Array]


class Algorithm(NamedTuple):
    """A pair of pure functions, and how many evaluations a step makes.

    Attributes:
        init: `params -> opt_state`.
        step: `(state, data) -> (state, metrics)`; compiles itself. The metrics are
            scalars; `samples` says what the step consumed, `fitness/nonfinite` the
            share of evaluations that failed, and `fitness/unusable` the share of
            members that count for nothing, because they or their partners failed.
        members: Evaluations a step, each with its carry; 0: one for each row of the
            data.
        trial: The part of `step` that can be traced before a run, to find mistakes.
    """

    init: Callable[[PyTree], PyTree]
    step: Callable[[State, PyTree], tuple[State, Metrics]]
    members: int
    trial: Callable[[State, PyTree], Any]


class Evolution(NamedTuple):
    """The two halves of a step of evolution, for a task that puts them together.

    Attributes:
        init: `params -> opt_state`.
        ask: `(state, data) -> (results, generation)`: `task.evaluate` of all members,
            its results stacked. Asked again at the same step, the members are the same.
        learn: `(state, generation, fitness, carry, aux) -> (state, metrics)`; fitness
            that is no array of JAX is shaped in float64, outside.
    """

    init: Callable[[PyTree], PyTree]
    ask: Callable[[State, PyTree], tuple[tuple, Generation]]
    learn: Callable[..., tuple[State, Metrics]]


def find(task: Task, config: Config) -> Algorithm:
    """The algorithm that the settings name."""
    known = {**ALGORITHMS, **task.algorithms}
    if config.algorithm not in known:
        raise unknown("algorithm", config.algorithm, known)
    return known[config.algorithm](task, config)


def low_rank(task: Task, config: Config) -> Algorithm:
    """Evolution with low-rank perturbations."""
    return _evolution(task, config, rank=config.strategy.rank)


def full_rank(task: Task, config: Config) -> Algorithm:
    """Evolution with full-rank perturbations (OpenAI-ES).

    References:
        Salimans et al., Evolution Strategies as a Scalable Alternative to Reinforcement
        Learning, 2017, https://arxiv.org/abs/1703.03864.
    """
    return _evolution(task, config, rank=None)


def backprop(task: Task, config: Config) -> Algorithm:
    """The true gradient of the unperturbed parameters' fitness."""
    if not task.differentiable:
        raise UserError(
            f"algorithm: the fitness of {type(task).__name__} has no true gradient for "
            "'backprop' to follow: choose 'eggroll' or 'openes'"
        )
    optimizer = instantiate.optimizer(config)

    def loss(params, state: State, data: PyTree) -> tuple[Array, tuple]:
        key = key_for(state.key, Purpose.NOISE, state.step)
        keys = jax.random.split(key, rows(data, task.data_axes))
        evaluate = jax.vmap(task.evaluate, in_axes=(None, task.data_axes, 0, 0))
        fitness, carry, aux = evaluate(params, data, state.carry, keys)
        return -jnp.mean(fitness), (fitness, carry, aux)

    @jax.jit
    def step(state: State, data: PyTree) -> tuple[State, Metrics]:
        gradient = jax.grad(loss, has_aux=True)
        grads, (fitness, carry, aux) = gradient(state.params, state, data)
        metrics = diagnostics.of_population(fitness, aux)
        return _update(task, optimizer, state, grads, carry, aux, metrics)

    return Algorithm(optimizer.init, step, members=0, trial=step)


def evolution(task: Task, config: Config, *, rank: int | None) -> Evolution:
    """The halves of a step, with perturbations of a rank or (None) of full rank."""
    strategy = instantiate.strategy(config, rank=rank)
    optimizer = instantiate.optimizer(config)

    def member(params, data, carry, *, key):
        return task.evaluate(params, data, carry, key)

    evaluate = strategy.ask(member, in_axes=(task.data_axes, 0))

    def ask(state: State, data: PyTree) -> tuple[tuple, Generation]:
        noise = key_for(state.key, Purpose.NOISE)  # the strategy folds in the step
        return evaluate(state.params, noise, data, state.carry, step=state.step)

    def learn(
        state: State,
        generation: Generation,
        fitness: Num[Any, " population"],
        carry: PyTree,
        aux: dict[str, Any],
    ) -> tuple[State, Metrics]:
        weights = strategy.weigh(fitness)
        if not isinstance(fitness, jax.Array):
            fitness = narrowed(fitness, antithetic=False)
        return follow(state, generation, weights, fitness, carry, aux)

    @jax.jit
    def follow(
        state: State,
        generation: Generation,
        weights: Float[Array, " population"],
        fitness: Float[Array, " population"],
        carry: PyTree,
        aux: dict[str, Any],
    ) -> tuple[State, Metrics]:
        grads = filled(strategy.combine(generation, weights), state.params)
        metrics = diagnostics.of_population(fitness, aux)
        counted = shaping.counted(
            strategy.shaping, fitness, antithetic=strategy.antithetic
        )
        metrics |= diagnostics.of_weights(weights, counted)
        if config.diagnose_every:
            is_half = jnp.arange(fitness.shape[0]) // 2 % 2 == 0  # pairs stay together
            half = lambda: strategy.combine(generation, jnp.where(is_half, weights, 0))
            metrics["gradient/agreement"] = jax.lax.cond(
                state.step % config.diagnose_every == 0,
                lambda: diagnostics.agreement(grads, filled(half(), state.params)),
                lambda: jnp.float32(jnp.nan),  # not measured: left out of the log
            )
        return _update(task, optimizer, state, grads, carry, aux, metrics)

    return Evolution(optimizer.init, ask, learn)


def _evolution(task: Task, config: Config, *, rank: int | None) -> Algorithm:
    init, ask, learn = evolution(task, config, rank=rank)

    @jax.jit
    def step(state: State, data: PyTree) -> tuple[State, Metrics]:
        (fitness, carry, aux), generation = ask(state, data)
        return learn(state, generation, fitness, carry, aux)

    members = config.strategy.population
    if task.score is None:
        return Algorithm(init, step, members, trial=step)
    scored = _scored_on_host(task, jax.jit(ask), learn)
    return Algorithm(init, scored, members, trial=ask)


def _scored_on_host(task: Task, ask: Callable, learn: Callable) -> Callable:
    """A step whose fitness is computed outside JAX, between its two halves."""
    score = task.score
    assert score is not None

    def step(state: State, data: PyTree) -> tuple[State, Metrics]:
        (fitness, carry, aux), generation = ask(state, data)
        scores = score(jax.device_get(aux), data)
        with instantiate.blaming(f"{type(task).__name__}: score"):
            scores = one_per_member(scores, fitness.shape[0], "fitness")
        return learn(state, generation, scores, carry, aux)

    return step


def _update(
    task: Task,
    optimizer: optax.GradientTransformation,
    state: State,
    grads: PyTree,
    carry: PyTree,
    aux: dict[str, Any],
    metrics: Metrics,
) -> tuple[State, Metrics]:
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics |= diagnostics.of_update(state.params, params, updates, grads)
    task_state = task.update_state(state.task, aux)
    new = state.advanced(
        params=params, opt_state=opt_state, task=task_state, carry=carry
    )
    return new, metrics


ALGORITHMS: dict[str, Callable[[Task, Config], Algorithm]] = {
    "eggroll": low_rank,
    "openes": full_rank,
    "backprop": backprop,
}
