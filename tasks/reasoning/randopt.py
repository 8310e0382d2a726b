"""RandOpt: random members, of which the best vote; a baseline for `Reasoning`.

No parameter is learnt. One generation of members is drawn around the checkpoint, and
stays: each step evaluates all of them on the next prompts and adds up what they got.
Held-out prompts are answered by the best so far, and the majority's answer counts.

References:
    "Neural Thickets", arXiv 2603.12228.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from eggroll import UserError
from eggroll.config import Config, Count, check_bounds
from eggroll.training import (
    Algorithm,
    Experiment,
    Metrics,
    Purpose,
    State,
    diagnostics,
    generation_of,
    instantiate,
    key_for,
)
from models.llm.generation import GREEDY, Completions
from tasks.reasoning import held_out
from tasks.reasoning.voting import answer_of, elected


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandOptSettings:
    """What RandOpt needs to know besides the strategy.

    Attributes:
        best: how many members vote.
    """

    best: Count = 8

    def __post_init__(self):
        check_bounds(self, "randopt")


class Voting(held_out.Answering, Protocol):
    """What is read of a task beside its held-out prompts."""

    @property
    def verifier(self) -> Any: ...
    @property
    def randopt(self) -> RandOptSettings: ...
    def texts(self, done: Completions) -> list[str]: ...
    def score(self, aux: Mapping[str, Any], data: Any) -> tuple[Any, Any]: ...


class Tally(NamedTuple):
    """What is kept between steps.

    Attributes:
        total: fitness of each member, added up.
        steps: how many were added.
    """

    total: Float[Array, " population"]
    steps: Int[Array, ""]


def algorithm(task: Any, config: Config) -> Algorithm:
    """Returns RandOpt on the prompts of a `Reasoning` task.

    The noise is that of the strategy's settings, whose sigma must be one number.

    Raises:
        UserError: the settings contradict it.
    """
    setting, best = config.strategy, task.randopt.best
    if best > setting.population or setting.sigma.kind != "constant":
        raise UserError(
            "algorithm: 'randopt' draws its members once: it needs a sigma that is one "
            "number, and a population of at least randopt.best, got "
            f"{setting.sigma.plain()}, {setting.population} and {best}"
        )
    strategy = instantiate.strategy(config, rank=setting.rank)
    strategy = dataclasses.replace(strategy, noise_reuse=2**31 - 1)

    def member(params, data, carry, *, key):
        return task.evaluate(params, data, carry, key)

    @jax.jit
    def ask(state: State, data: PyTree) -> tuple:
        evaluate = strategy.ask(member, in_axes=(task.data_axes, 0))
        noise = key_for(state.key, Purpose.NOISE)
        return evaluate(state.params, noise, data, state.carry, step=state.step)[0]

    def init(params: PyTree) -> Tally:
        del params
        return Tally(jnp.zeros(setting.population), jnp.int32(0))

    def step(state: State, data: PyTree) -> tuple[State, Metrics]:
        _, carry, aux = ask(state, data)
        fitness, told = task.score(jax.device_get(aux), data)
        fitness, kept = jnp.asarray(fitness, jnp.float32), state.opt_state
        tally = Tally(kept.total + fitness, kept.steps + 1)
        order = ranking(tally)
        metrics = diagnostics.of_population(fitness, aux) | told
        metrics["randopt/first"] = order[0]  # a member, as `export --member` has it
        metrics["randopt/best"] = jnp.mean((tally.total / tally.steps)[order[:best]])
        return state.advanced(opt_state=tally, carry=carry), metrics

    write = jax.jit(strategy.member)

    def validate(state: State, key: PRNGKeyArray) -> held_out.Figures:
        _, generation = generation_of(Experiment(config, task, made), state)
        of = functools.partial(write, generation, state.params)
        first = ranking(state.opt_state)[:best] if state.opt_state.steps else []
        return voted(task, [of(one) for one in first] or [state.params], key)

    made = Algorithm(
        init, step, setting.population, ask, validate=validate, strategy=strategy
    )
    return made


def ranking(tally: Tally) -> Int[np.ndarray, " population"]:
    """Members by what they got, the best first; of equals the one drawn first."""
    return np.argsort(-np.asarray(tally.total), kind="stable")


def voted(task: Voting, voters: Any, key: PRNGKeyArray) -> held_out.Figures:
    """What the majority of models is worth on held-out prompts, completed greedily.

    Args:
        task: whose prompts they are.
        voters: the parameters of each, the best first; one alone is a vote, too.
        key: of which greedy completions make no use.

    Returns:
        `solved`, `reward`, `length` and `ended` of the completions that spoke for the
        majority, and `first_alone`, what the best solves alone.
    """
    rows = held_out.rows_of(task)
    every = [held_out.completed(task, one, rows, GREEDY, key) for one in voters]
    votes = [
        [answer_of(text, task.verifier) for text in task.texts(done)] for done in every
    ]
    chosen, place = np.asarray(elected(votes)), np.arange(len(rows))
    taken = jax.tree.map(lambda *x: np.stack(x)[chosen, place], *every)
    alone = held_out.figures(task, every[0], rows)
    found = alone if len(every) == 1 else held_out.figures(task, taken, rows)
    return found | {"first_alone": alone["solved"]}
