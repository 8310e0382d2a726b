"""The two halves of a step of evolution, and what may be kept beside its optimiser."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Num, PyTree

from eggroll.evolution.adaptation import Adaptation, Adapted
from eggroll.evolution.baseline import Baseline, against, baseline_init, baseline_update
from eggroll.evolution.generation import Generation
from eggroll.evolution.strategy import EvolutionStrategy
from eggroll.training.state import State


Metrics = dict[str, Array]


class Evolution(NamedTuple):
    """The two halves of a step of evolution, for a task that puts them together.

    Attributes:
        init: `params -> opt_state`.
        ask: `(state, data) -> (results, generation)`: `task.evaluate` of all members,
            its results stacked. Asked again at the same step, the members are the same.
        learn: `(state, generation, fitness, carry, aux) -> (state, metrics)`; fitness
            that is no array of JAX is shaped in float64, outside. `centre`, the fitness
            of the parameters themselves, may follow, for a sigma that adapts.
        strategy: that asks, with the sigma it starts from.
    """

    init: Callable[[PyTree], PyTree]
    ask: Callable[..., tuple[tuple, Generation]]
    learn: Callable[..., tuple[State, Metrics]]
    strategy: EvolutionStrategy


class Adapting(NamedTuple):
    """What is kept between steps, as `State.opt_state`, where sigma adapts."""

    optimizer: PyTree
    sigma: Adapted


class Judging(NamedTuple):
    """What is kept in place of the optimiser's state where there is a baseline."""

    optimizer: PyTree
    baseline: Baseline


def adapting(rule: Adaptation, halves: Evolution) -> Evolution:
    """The halves of a step with the sigma of the state, which `learn` adapts."""

    def init(params: PyTree) -> Adapting:
        return Adapting(halves.init(params), rule.init())

    @jax.jit  # so that the generation tells of a traced sigma, as `learn` has it
    def ask(state: State, data: PyTree) -> tuple[tuple, Generation]:
        return halves.ask(state, data, state.opt_state.sigma.sigma)

    def learn(
        state: State,
        generation: Generation,
        fitness: Num[Any, " population"],
        carry: PyTree,
        aux: dict[str, Any],
        centre: Any = None,
    ) -> tuple[State, Metrics]:
        kept: Adapting = state.opt_state
        adapted, _ = rule.update(kept.sigma, fitness, centre=centre)
        state = state._replace(opt_state=kept.optimizer)
        new, metrics = halves.learn(state, generation, fitness, carry, aux)
        new = new._replace(opt_state=Adapting(new.opt_state, adapted))
        return new, metrics | {"sigma": kept.sigma.sigma}

    return Evolution(init, ask, learn, halves.strategy)


def judging(half_life: float, halves: Evolution) -> Evolution:
    """The halves of a step whose members are shaped by how they deviate from of late.

    The generation itself is part of the baseline that it is judged against; all that
    is told of fitness is raw.

    Args:
        half_life: generations after which one counts half as much.
        halves: of which `learn` takes `judged`, what is shaped in place of fitness.
    """

    def init(params: PyTree) -> Judging:
        return Judging(halves.init(params), baseline_init())

    def learn(
        state: State,
        generation: Generation,
        fitness: Num[Any, " population"],
        carry: PyTree,
        aux: dict[str, Any],
        centre: Any = None,
    ) -> tuple[State, Metrics]:
        kept: Judging = state.opt_state
        baseline = baseline_update(kept.baseline, fitness, half_life)
        judged = against(baseline, fitness)
        state = state._replace(opt_state=kept.optimizer)
        new, metrics = halves.learn(
            state, generation, fitness, carry, aux, centre, judged=judged
        )
        new = new._replace(opt_state=Judging(new.opt_state, baseline))
        told = {"baseline/mean": baseline.mean, "baseline/spread": baseline.spread}
        return new, metrics | told

    return halves._replace(init=init, learn=learn)
