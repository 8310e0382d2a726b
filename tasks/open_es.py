"""OpenAI-ES as evosax has it: an independent check of ours, for any task.

The task, its validation, population, sigma, shaping and optimiser are those of the
config. What differs from `openes`, and is evosax's own:

- Noise is Gaussian, whatever `strategy.noise` says.
- The parameters are one flat vector, and all members are written out and kept.
- A schedule of sigma comes one step late: generation g uses sigma(g - 1).
- It minimises, so that it is told minus the fitness.
- Where a member fails, it and its partner are given the mean of the others, so that
  they cancel; ours are left out.

References:
    Lange, "evosax: JAX-based Evolution Strategies" (2022),
    https://arxiv.org/abs/2212.04180.
"""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from eggroll import Task, UserError
from eggroll.config import Config
from eggroll.evolution import compilers
from eggroll.evolution.chunks import map_chunks
from eggroll.evolution.members import rows_of_members
from eggroll.training import (
    Algorithm,
    Metrics,
    Purpose,
    State,
    diagnostics,
    instantiate,
    key_for,
)


# Names of `eggroll.shaping`, and what does the same in evosax.
SHAPINGS = {
    "none": "identity_fitness_shaping_fn",
    "zscore": "standardize_fitness_shaping_fn",
    "centred_rank": "centered_rank_fitness_shaping_fn",
}


def algorithm(task: Task, config: Config) -> Algorithm:
    """Returns evosax's `Open_ES`.

    Raises:
        UserError: evosax is not installed, or the config asks for what it cannot do.
    """
    _check(config)
    learner = _Learner(task, config)
    members = config.strategy.population
    return Algorithm(
        learner.init, compilers.jit(learner.step), members, trial=learner.step
    )


class _Learner:
    """The pair of pure functions, and what they share."""

    def __init__(self, task: Task, config: Config):
        algorithms = _library("evosax.algorithms")
        shapings = _library("evosax.core.fitness_shaping")
        self.task, self.strategy = task, (setting := config.strategy)
        self.optimizer = instantiate.optimizer(config)
        like = jax.eval_shape(task.init, jax.random.key(config.seed))
        sigma = instantiate.schedule(setting.sigma)
        self.es = algorithms.Open_ES(
            population_size=setting.population,
            solution=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like),
            use_antithetic_sampling=setting.antithetic,
            optimizer=self.optimizer,
            std_schedule=sigma if callable(sigma) else optax.constant_schedule(sigma),
            fitness_shaping_fn=getattr(shapings, SHAPINGS[setting.shaping.name]),
        )
        self.options = self.es.default_params

    def init(self, params: PyTree) -> PyTree:
        state = self.es.init(jax.random.key(0), params, self.options)
        # evosax makes the optimiser's state for zeros, and counts in Python's numbers.
        state = state.replace(opt_state=self.optimizer.init(state.mean))
        return _typed(state)

    def step(self, state: State, data: PyTree) -> tuple[State, Metrics]:
        key = key_for(state.key, Purpose.NOISE, state.step)
        noise_key, fitness_key = jax.random.split(key)
        population, kept = self.es.ask(noise_key, state.opt_state, self.options)
        fitness, carry, aux = self._evaluate(population, data, state.carry, fitness_key)
        told = -self._in_their_order(self._mended(fitness))
        kept, _ = self.es.tell(noise_key, population, told, kept, self.options)
        new = state.advanced(
            params=self.es.get_mean(kept),
            opt_state=_typed(kept),
            task=self.task.update_state(state.task, aux),
            carry=carry,
        )
        moved = optax.tree.norm(optax.tree.sub(new.params, state.params))
        metrics = diagnostics.of_population(fitness, aux)
        metrics["update/ratio"] = moved / optax.tree.norm(state.params)
        return new, metrics

    def _evaluate(
        self, population: PyTree, data: PyTree, carry: PyTree, key: PRNGKeyArray
    ) -> tuple[Float[Array, " population"], PyTree, dict[str, Any]]:
        """Evaluates the members in our order: neighbours are pairs."""
        size, each = self.strategy.population, 2 if self.strategy.antithetic else 1
        keys = jnp.repeat(jax.random.split(key, size // each), each)
        members = jax.tree.map(self._in_our_order, population)
        axes, index = self.task.data_axes, jnp.arange(size)

        def some(rows: tuple) -> Any:
            params, carry, keys, index = rows
            read = lambda x: rows_of_members(x, mapped=True, index=index, size=size)
            own = jax.tree.map(
                lambda axis, x: x if axis is None else jax.tree.map(read, x),
                axes,
                data,
                is_leaf=lambda axis: axis is None,
            )
            evaluate = jax.vmap(self.task.evaluate, (0, axes, 0, 0))
            return evaluate(params, own, carry, keys)

        chunk = self.strategy.chunk_size or size
        return map_chunks(some, (members, carry, keys, index), chunk)

    def _mended(
        self, fitness: Float[Array, " population"]
    ) -> Float[Array, " population"]:
        """Gives failed members and their partners the mean of the others."""
        each = 2 if self.strategy.antithetic else 1
        usable = jnp.isfinite(fitness).reshape(-1, each).all(axis=1).repeat(each)
        return jnp.where(usable, fitness, jnp.mean(fitness, where=usable))

    def _in_our_order(self, x: Array) -> Array:
        """From all of one sign before all of the other, to neighbours."""
        if not self.strategy.antithetic:
            return x
        return x.reshape(2, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)

    def _in_their_order(self, x: Array) -> Array:
        if not self.strategy.antithetic:
            return x
        return x.reshape(-1, 2, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)


def _check(config: Config) -> None:
    """Refuses settings that evosax has nothing for."""
    setting = config.strategy
    wrong = {
        "precision": config.precision != "float32" and "float32",
        "strategy.noise_reuse": setting.noise_reuse != 1 and "1",
        "strategy.rules": bool(setting.rules) and "none",
        "strategy.shaping": (setting.shaping.name not in SHAPINGS)
        and f"one of {', '.join(SHAPINGS)}",
        "strategy.shaping's options": bool(setting.shaping.options) and "none",
        "strategy.population": bool(setting.population % 2) and "an even number",
    }
    for name, expected in wrong.items():
        if expected:
            raise UserError(f"algorithm: 'evosax' expects {name} to be {expected}")


def _typed(tree: PyTree) -> PyTree:
    """Arrays whose types are their own, not those of Python's numbers.

    Otherwise a step would be compiled again for what it returns itself.
    """
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), tree)


def _library(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"algorithm: 'evosax' needs the package {error.name!r}, which is not "
            "installed: pip install 'eggroll-jax[compare]'"
        ) from error
