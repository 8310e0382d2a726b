"""Integer evolution in the training loop: `algorithm: integer` of int8 models.

Population, sigma (a power of two), rank, noise, noise_reuse, rules and chunk_size are
read from the run's `strategy`; what is particular to integers from the task's field
`stepping`.
"""

import dataclasses
import math
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from eggroll.config.bounds import (
    Bounds,
    Count,
    Natural,
    NonNegative,
    Share,
    check_bounds,
)
from eggroll.config.schema import Config
from eggroll.errors import UserError
from eggroll.evolution.generation import Generation
from eggroll.integer import compilation, updates
from eggroll.integer.strategy import IntegerStrategy
from eggroll.task.protocol import Task
from eggroll.training import diagnostics, instantiate, parts
from eggroll.training.algorithms import Algorithm, Metrics
from eggroll.training.state import Purpose, State, key_for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stepping:
    """How votes become steps of integer weights; see `eggroll.integer.updates`.

    Attributes:
        rule: "accumulating" keeps votes until they suffice for a move, "memoryless"
            moves by one, or not, and forgets.
        threshold: accumulating: votes for a move of one, in sixteenths of the standard
            deviation of votes on noise.
        halving: accumulating: steps after which the threshold has doubled, then
            tripled, and so on; 0: it stays.
        leak: accumulating: each step the accumulator loses its 2^leak-th part; 0: none.
        alpha: memoryless: the share of the weights that moves on noise; 0: the schedule
            1/(rate t + 1).
        rate: memoryless: of that schedule.
        weighting: pairs vote by the "sign" of their difference, or by the "difference".
        paper: the published program throughout: memoryless, signs, truncated noise,
            floor shifts, votes of zero counted as -1.
    """

    rule: Literal["accumulating", "memoryless"] = "accumulating"
    threshold: Count = 12
    halving: Natural = 200
    leak: Annotated[int, Bounds(least=0, most=31)] = 0
    alpha: Share = 0.0
    rate: NonNegative = 0.015
    weighting: Literal["difference", "sign"] = "difference"
    paper: bool = False

    def __post_init__(self):
        check_bounds(self, "stepping")

    def make(self) -> updates.UpdateRule:
        """Builds the rule.

        Raises:
            ValueError: a setting is out of range.
        """
        if self.rule == "accumulating" and not self.paper:
            return updates.accumulating(
                self.threshold, self.halving or None, self.leak or None
            )
        alpha = self.alpha or updates.inverse_time(self.rate)
        return updates.memoryless(alpha, ties_fall=self.paper)


def integer_algorithm(task: Task, config: Config) -> Algorithm:
    """Evolution of int8 parameters by votes, without a float in what is learnt."""
    settings: Stepping = getattr(task, "stepping", Stepping())
    strategy = strategy_of(config, settings)
    with instantiate.blaming("task.stepping"):
        rule = settings.make()

    def member(params: PyTree, data: PyTree, carry: PyTree, random: Array) -> tuple:
        return task.evaluate(params, data, carry, random)

    ask = strategy.ask(member, in_axes=(task.data_axes, 0, None))

    def asked(state: State, data: PyTree) -> tuple[tuple, Generation]:
        noise, random = (
            key_for(state.key, Purpose.NOISE),  # the strategy folds in the step
            key_for(state.key, Purpose.NOISE, state.step),
        )
        return ask(state.params, noise, data, state.carry, random, step=state.step)

    def learn(
        state: State, generation: Generation, fitness: Array, carry: PyTree, aux: dict
    ) -> tuple[State, Metrics]:
        votes, std = strategy.votes(generation, fitness), strategy.vote_std(generation)
        params, opt_state = rule.update(
            votes, state.opt_state, state.params, state.step, std
        )
        metrics = diagnostics.of_population(fitness.astype(jnp.float32), aux)
        metrics |= _of_votes(votes, std) | _of_moves(state.params, params)
        task_state = task.update_state(state.task, aux)
        new = state.advanced(
            params=params, opt_state=opt_state, task=task_state, carry=carry
        )
        return new, metrics

    made = parts.in_jax(task, config, asked, learn, compiler=compilation.jit)
    members = strategy.population
    return Algorithm(rule.init, made.step, members, made.trial, parts=made)


def strategy_of(config: Config, settings: Stepping) -> IntegerStrategy:
    """The integer strategy that a run's settings describe.

    Raises:
        UserError: they ask for what integers cannot do.
    """
    setting = config.strategy
    sigma = setting.sigma.start
    if setting.sigma.kind != "constant" or sigma <= 0 or math.log2(sigma) % 1:
        raise UserError(
            "strategy.sigma: the integer algorithm shifts, so sigma must be one power "
            f"of two, 0.0625 say (sigma_shift 4), got {setting.sigma.plain()}"
        )
    if not setting.antithetic:
        raise UserError(
            "strategy.antithetic: integers are learnt from pairs: leave it true"
        )
    with instantiate.blaming("strategy"):
        return IntegerStrategy(
            population=setting.population,
            sigma_shift=-int(math.log2(sigma)),
            rank=setting.rank,
            noise="truncated" if settings.paper else setting.noise,
            rounding="floor" if settings.paper else "nearest",
            weighting="sign" if settings.paper else settings.weighting,
            noise_reuse=setting.noise_reuse,
            rules=instantiate.rules(setting.rules),
            chunk_size=setting.chunk_size,
            mesh=instantiate.mesh(config),
        )


def _of_votes(votes: PyTree, std: PyTree) -> Metrics:
    """How decided the votes are: 0.80 if there is nothing in them but noise."""
    sizes = jax.tree.map(lambda v, s: jnp.sum(jnp.abs(v) / s), votes, std)
    return {"votes/margin": _mean(sizes, votes)}


def _of_moves(old: PyTree, new: PyTree) -> Metrics:
    """The share of weights that moved, and of those at the end of their range."""
    moved = jax.tree.map(lambda a, b: jnp.sum(a != b), old, new)
    ends = jax.tree.map(lambda a: jnp.sum(jnp.abs(a.astype(jnp.int32)) == 127), new)
    return {"update/changed": _mean(moved, old), "weights/saturated": _mean(ends, old)}


def _mean(sums: PyTree, like: PyTree) -> Array:
    total = jnp.sum(jnp.asarray(jax.tree.leaves(sums), jnp.float32))
    return total / sum(x.size for x in jax.tree.leaves(like))
