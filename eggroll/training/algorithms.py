"""Ways to learn, each a pair of pure functions over one state.

`eggroll` and `openes` are one code path that differs in the rank of the perturbations;
`backprop` is the baseline for tasks whose fitness has a true gradient. A task may offer
others; what they keep between steps is theirs, in `State.opt_state`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Num, PRNGKeyArray, PyTree

from eggroll.config.coercion import unknown
from eggroll.config.schema import Config
from eggroll.errors import UserError
from eggroll.evolution import compilers, shaping
from eggroll.evolution.estimate import narrowed
from eggroll.evolution.generation import Generation
from eggroll.evolution.leaves import filled
from eggroll.evolution.strategy import EvolutionStrategy
from eggroll.task.protocol import Task, rows
from eggroll.training import diagnostics, donation, instantiate, parts
from eggroll.training.halves import Evolution, Metrics, adapting, judging
from eggroll.training.parts import Parts
from eggroll.training.state import Purpose, State, key_for


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
        trial: A `step` that can be traced before a run, to find mistakes; what is
            computed outside JAX is left out.
        validate: `(state, key) -> metrics`, the headline one first, for what is learnt
            that is not the parameters; None: what the task says of these.
        strategy: That draws the members; None where they cannot be drawn again.
        parts: What `step` consists of; None where what is learnt does not follow from
            the members' fitness.
        step_over: As `step`, but it may write over the state's arrays; None where there
            is no such program, or `parts` has one.
    """

    init: Callable[[PyTree], PyTree]
    step: Callable[[State, PyTree], tuple[State, Metrics]]
    members: int
    trial: Callable[[State, PyTree], Any]
    validate: Callable[[State, PRNGKeyArray], Any] | None = None
    strategy: EvolutionStrategy | None = None
    parts: Parts | None = None
    step_over: Callable[[State, PyTree], tuple[State, Metrics]] | None = None


def find(task: Task, config: Config) -> Algorithm:
    """The algorithm that the settings name."""
    known = {**ALGORITHMS, **task.algorithms}
    if config.algorithm not in known:
        raise unknown("algorithm", config.algorithm, known)
    strategy, there_is = config.strategy, f"there is {' and '.join(ADAPTING)}"
    if strategy.sigma_adaptation and config.algorithm not in ADAPTING:
        raise UserError(
            f"strategy.sigma_adaptation: {config.algorithm!r} has no sigma that could "
            f"adapt; {there_is}"
        )
    if strategy.baseline and config.algorithm not in ADAPTING:
        raise UserError(
            f"strategy.baseline: {config.algorithm!r} weighs no members by their "
            f"fitness; {there_is}"
        )
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
    """The true gradient of the unperturbed parameters' fitness.

    Of the strategy's rules one holds here, too: what is frozen does not learn.
    """
    if not task.differentiable:
        raise UserError(
            f"algorithm: the fitness of {type(task).__name__} has no true gradient for "
            "'backprop' to follow: choose 'eggroll' or 'openes'"
        )
    optimizer = instantiate.optimizer(config, instantiate.rules(config.strategy.rules))

    def loss(params, state: State, data: PyTree) -> tuple[Array, tuple]:
        key = key_for(state.key, Purpose.NOISE, state.step)
        keys = jax.random.split(key, rows(data, task.data_axes))
        evaluate = jax.vmap(task.evaluate, in_axes=(None, task.data_axes, 0, 0))
        fitness, carry, aux = evaluate(params, data, state.carry, keys)
        return -jnp.mean(fitness), (fitness, carry, aux)

    def step(state: State, data: PyTree) -> tuple[State, Metrics]:
        gradient = jax.grad(loss, has_aux=True)
        grads, (fitness, carry, aux) = gradient(state.params, state, data)
        metrics = diagnostics.of_population(fitness, aux)
        return _update(task, optimizer, state, grads, carry, aux, metrics)

    program, over = compilers.jit(step), donation.over(step)
    return Algorithm(optimizer.init, program, members=0, trial=step, step_over=over)


def evolution(
    task: Task, config: Config, *, rank: int | None, over: bool = False
) -> Evolution:
    """The halves of a step, with perturbations of a rank or (None) of full rank.

    Args:
        task: What is learnt.
        config: Of the run.
        rank: Of the perturbations.
        over: Whether `learn` is called outside JAX and may write over its state.
    """
    rule, baseline = instantiate.adaptation(config.strategy), config.strategy.baseline
    halves = _halves(task, config, rank=rank, over=over)
    if baseline is not None:
        halves = judging(baseline.half_life, halves)
    return halves if rule is None else adapting(rule, halves)


def _halves(task: Task, config: Config, *, rank: int | None, over: bool) -> Evolution:
    """The halves of a step, as `adapting` and `judging` take them.

    `ask` takes a sigma where that is not the strategy's, and `learn` takes `judged`,
    what is shaped where that is not the fitness.
    """
    strategy = instantiate.strategy(config, rank=rank)
    optimizer = instantiate.optimizer(config, strategy.rules)
    adapts = config.strategy.sigma_adaptation is not None

    def with_sigma(sigma: Any) -> EvolutionStrategy:
        return dataclasses.replace(strategy, sigma=sigma) if adapts else strategy

    def member(params, data, carry, *, key):
        return task.evaluate(params, data, carry, key)

    def ask(state: State, data: PyTree, sigma: Any = None) -> tuple[tuple, Generation]:
        evaluate = with_sigma(sigma).ask(member, in_axes=(task.data_axes, 0))
        noise = key_for(state.key, Purpose.NOISE)  # the strategy folds in the step
        return evaluate(state.params, noise, data, state.carry, step=state.step)

    def learn(
        state: State,
        generation: Generation,
        fitness: Num[Any, " population"],
        carry: PyTree,
        aux: dict[str, Any],
        centre: Any = None,
        judged: Num[Any, " population"] | None = None,
    ) -> tuple[State, Metrics]:
        weights = strategy.weigh(fitness if judged is None else judged)
        if not isinstance(fitness, jax.Array):
            fitness = narrowed(fitness, antithetic=False)
        return program(state, generation, weights, fitness, carry, aux)

    def follow(
        state: State,
        generation: Generation,
        weights: Float[Array, " population"],
        fitness: Float[Array, " population"],
        carry: PyTree,
        aux: dict[str, Any],
    ) -> tuple[State, Metrics]:
        combine = lambda weights: filled(
            with_sigma(generation.sigma).combine(generation, weights), state.params
        )
        grads = combine(weights)
        metrics = diagnostics.of_population(fitness, aux)
        counted = shaping.counted(
            strategy.shaping, fitness, antithetic=strategy.antithetic
        )
        metrics |= diagnostics.of_weights(weights, counted)
        if config.diagnose_every:
            is_due = state.step % config.diagnose_every == 0
            metrics["gradient/agreement"] = _agreement(combine, weights, is_due)
        return _update(task, optimizer, state, grads, carry, aux, metrics)

    program = donation.over(follow) if over else jax.jit(follow)
    return Evolution(optimizer.init, ask, learn, strategy)


def _agreement(
    combine: Callable[[Array], PyTree],
    weights: Float[Array, " population"],
    is_due: Bool[Array, ""],
) -> Float[Array, ""]:
    """As `diagnostics.agreement`; NaN, which is left out of the log, if not due.

    The whole gradient is summed up again: that of the step would have to be written out
    for it each time, due or not.
    """
    is_half = jnp.arange(weights.shape[0]) // 2 % 2 == 0  # pairs stay together
    half = lambda: combine(jnp.where(is_half, weights, 0))
    return jax.lax.cond(
        is_due,
        lambda: diagnostics.agreement(combine(weights), half()),
        lambda: jnp.float32(jnp.nan),
    )


def _evolution(task: Task, config: Config, *, rank: int | None) -> Algorithm:
    init, ask, learn, strategy = evolution(task, config, rank=rank)
    rule = instantiate.adaptation(config.strategy)
    is_shared = not jax.tree.leaves(task.data_axes)
    has_centre = rule is not None and rule.uses_centre and is_shared
    if task.score is None:
        made = parts.in_jax(task, config, ask, learn, has_centre=has_centre)
    else:
        learn_over = evolution(task, config, rank=rank, over=True).learn
        made = parts.on_host(task, config, ask, learn, learn_over)
    members = config.strategy.population
    return Algorithm(init, made.step, members, made.trial, None, strategy, made)


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
ADAPTING = ("eggroll", "openes")
