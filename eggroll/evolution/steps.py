"""Steps of a run with a loop of its own: what happens on the device.

A step evaluates a population around the parameters, moves them, and evaluates them. The
best of all that was evaluated is kept: of a member only its number is known until it is
the best so far, and then it is written out. A run ends on the device, at the very step
at which there is a reason to, so that nothing depends on how many steps are made before
the host looks.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from eggroll.evolution import calls, noise as noises, shaping, tracing
from eggroll.evolution.generation import Generation
from eggroll.evolution.leaves import is_floating
from eggroll.evolution.objective import Objective
from eggroll.evolution.stopping import Rules
from eggroll.evolution.strategy import EvolutionStrategy
from eggroll.evolution.validation import check_fitness


# What a run tells of a step: the loss at the parameters before it, the members' best
# and their mean.
ROWS = 3


class State(NamedTuple):
    """A run after some steps, as a pytree of arrays.

    Attributes:
        step: how many there were.
        params: what learns; None for the other leaves.
        optimizer: the state of the optimiser.
        value: the loss at `params`.
        best: what had the lowest finite loss of all, as `params` is.
        best_value: that loss; infinite if there was none.
        mark: the best loss when it last improved by enough.
        idle: how many steps ago that was.
        stop: number of the reason to stop, in `Stop`; 0 if there is none.
    """

    step: Int[Array, ""]
    params: PyTree
    optimizer: optax.OptState
    value: Float[Array, ""]
    best: PyTree
    best_value: Float[Array, ""]
    mark: Float[Array, ""]
    idle: Int[Array, ""]
    stop: Int[Array, ""]


class Parts(NamedTuple):
    """Arguments of a loss, `(params, args)`, taken apart.

    Attributes:
        learns: the floating-point leaves of the parameters.
        arrays: all other arrays.
        rest: what is no array, and closed over: truth values, functions, words.
    """

    learns: PyTree
    arrays: PyTree
    rest: PyTree

    @classmethod
    def of(cls, params: PyTree, args: tuple) -> "Parts":
        strong = lambda x: jnp.asarray(x, jnp.result_type(x))  # with a type of its own
        learns, others = _divided(params, is_floating)
        arrays, rest = _divided((others, args), _is_array)
        return cls(jax.tree.map(strong, learns), arrays, rest)

    def joined(self) -> tuple[PyTree, tuple]:
        """Returns the parameters and the arguments that follow them."""
        others, args = _united(self.arrays, self.rest)
        return _united(self.learns, others), args


@dataclasses.dataclass(frozen=True, eq=False)
class Steps:
    """The pure functions that begin a run and go on with it.

    Attributes:
        loss: of parameters and arguments, all pytrees.
        strategy: makes the population.
        optimizer: follows the gradient; given `value`, too, if it takes more.
        key: of all noise.
        rest: what is no array among the arguments of the loss (`Parts.rest`).
        rules: when to stop, of which the seconds are the host's.
    """

    loss: Callable
    strategy: EvolutionStrategy
    optimizer: optax.GradientTransformationExtraArgs
    key: PRNGKeyArray
    rest: PyTree
    rules: Rules

    def begin(self, learns: PyTree, arrays: PyTree) -> State:
        """Returns the state before the first step."""
        value = self._value(learns, arrays, 0)
        best_value = jnp.where(jnp.isfinite(value), value, jnp.inf)
        state = State(
            step=jnp.int32(0),
            params=learns,
            optimizer=self.optimizer.init(learns),
            value=value,
            best=learns,
            best_value=best_value,
            mark=best_value,
            idle=jnp.int32(0),
            stop=self.rules.reason(best_value, 0, failed=False),
        )
        # Without weak types, which would not come back from a step.
        return jax.tree.map(lambda x: jnp.asarray(x, x.dtype), state)

    def go_on(
        self, state: State, arrays: PyTree
    ) -> tuple[State, Float[Array, "ROWS block"]]:
        """Makes up to `block` steps.

        Returns:
            The state after them, and what there is to tell of each of them.
        """
        start = state.step
        until = jnp.minimum(start + self.rules.block, self.rules.steps)

        def more(carry: tuple[State, Array]) -> Array:
            state, _ = carry
            return (state.step < until) & (state.stop == 0)

        def make(carry: tuple[State, Array]) -> tuple[State, Array]:
            state, rows = carry
            new, row = self._step(state, arrays)
            return new, rows.at[:, state.step - start].set(row)

        rows = jnp.full((ROWS, self.rules.block), jnp.nan, state.value.dtype)
        return jax.lax.while_loop(more, make, (state, rows))

    def _step(self, state: State, arrays: PyTree) -> tuple[State, Array]:
        es, step = self.strategy, state.step
        params, args = self._arguments(state.params, arrays)
        objective = Objective(self.loss, is_loss=True)
        fitness, generation = es.scores(
            objective, self.key, (params, *args), {"step": step}
        )
        counted = shaping.counted(es.shaping, fitness, antithetic=es.antithetic)
        moved, optimizer = self._moved(state, generation, es.weigh(fitness))
        value = self._value(moved, arrays, step + 1)

        losses = -fitness.astype(value.dtype)
        is_finite = jnp.isfinite(losses)
        winner = jnp.argmin(jnp.where(is_finite, losses, jnp.inf))
        rivals = jnp.stack([state.best_value, losses[winner], value])
        rivals = jnp.where(jnp.isfinite(rivals), rivals, jnp.inf)
        member = lambda: learning(es.member(generation, params, winner))
        branches = [lambda: state.best, member, lambda: moved]
        best = jax.lax.switch(jnp.argmin(rivals), branches)
        best_value = jnp.min(rivals)

        improved = best_value < state.mark - self.rules.min_improvement
        idle = jnp.where(improved, 0, state.idle + 1)
        row = [state.value, rivals[1], jnp.mean(losses, where=is_finite)]
        new = State(
            step=step + 1,
            params=moved,
            optimizer=optimizer,
            value=value,
            best=best,
            best_value=best_value,
            mark=jnp.where(improved, best_value, state.mark),
            idle=idle,
            stop=self.rules.reason(best_value, idle, failed=~counted.any()),
        )
        return new, jnp.stack(row)

    def _moved(
        self, state: State, generation: Generation, weights: Array
    ) -> tuple[PyTree, optax.OptState]:
        """Returns what learns, and the state of the optimiser, after an update."""
        grads = self.strategy.combine(generation, weights)
        evolves = generation.arranged(not x.is_frozen for x in generation.layouts)
        is_none = lambda x: x is None
        like = lambda tree: jax.tree.map(
            lambda p, x: None if p is None else x, state.params, tree, is_leaf=is_none
        )
        updates, optimizer = self.optimizer.update(
            like(grads), state.optimizer, state.params, value=state.value
        )
        # Decay of weights moves what a gradient of zero leaves alone.
        keep = lambda u, evolves: u if evolves else jnp.zeros_like(u)
        updates = jax.tree.map(keep, updates, like(evolves))
        return optax.apply_updates(state.params, updates), optimizer

    def _value(self, params: PyTree, arrays: PyTree, step: Any) -> Float[Array, ""]:
        """The loss at parameters themselves, with a key that no member has."""
        params, args = self._arguments(params, arrays)
        call = calls.opened(self.loss, (params, *args), {}, step=step)
        key = {}
        if call.has_key:
            none = jnp.asarray(self.strategy.population)  # above the number of any pair
            base = noises.base_key(self.key)
            key = {"key": noises.member_key(base, step, none)}
        with tracing.explaining():
            value, _ = call.function(call.params, *call.args, **call.kwargs, **key)
        check_fitness(value, has_aux=False)
        value = jnp.asarray(value)
        return value.astype(jnp.promote_types(value.dtype, jnp.float32))

    def _arguments(self, params: PyTree, arrays: PyTree) -> tuple[PyTree, tuple]:
        return Parts(params, arrays, self.rest).joined()


def learning(params: PyTree) -> PyTree:
    """The leaves of parameters that learn; None for the others."""
    return _divided(params, is_floating)[0]


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray | np.generic)


def _divided(tree: PyTree, keep: Callable[[Any], bool]) -> tuple[PyTree, PyTree]:
    """Divides a tree in two, with None for the leaves of the other."""
    return (
        jax.tree.map(lambda x: x if keep(x) else None, tree),
        jax.tree.map(lambda x: None if keep(x) else x, tree),
    )


def _united(one: PyTree, other: PyTree) -> PyTree:
    pick = lambda a, b: b if a is None else a
    return jax.tree.map(pick, one, other, is_leaf=lambda x: x is None)
