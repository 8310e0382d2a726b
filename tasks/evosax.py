"""Strategies of evosax as baselines, by name, for any task.

The task, its validation, population and budget are those of the config. `Open_ES`, with
the config's sigma, shaping and optimiser, is an independent check of `openes`. What
differs from that, and is evosax's own:

- Noise is Gaussian, whatever `strategy.noise` says.
- The parameters are one flat vector, and all members are written out and kept. `CMA_ES`
  and `xNES` keep the square of that, and serve some thousand parameters.
- A schedule of sigma comes one step late: generation g uses sigma(g - 1).
- It minimises, so that it is told minus the fitness.
- Where a member fails, it and its partner are given the mean of the others, so that
  they cancel; ours are left out.

Of other strategies, those that follow an estimate of the gradient, such as `PGPE`, have
the config's shaping and optimiser; those that rank members by a rule of their own, such
as `CMA_ES`, `Sep_CMA_ES` and `SNES`, have neither, and failed members come last. They
all start from `strategy.sigma`, which those with a rule for it adapt. Only `Open_ES`
and `PGPE` have pairs of members; with others, each member meets its own chances, or all
the same with `seeds: population`.

References:
    Lange, "evosax: JAX-based Evolution Strategies" (2022),
    https://arxiv.org/abs/2212.04180.
"""

import difflib
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from eggroll import Task, UserError
from eggroll.config import Choice, Config
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


OPEN_ES = Choice(name="Open_ES")
PAIRED = ("Open_ES", "PGPE")  # all of one sign before all of the other


def algorithm(task: Task, config: Config) -> Algorithm:
    """Returns the strategy of evosax that `task.evosax` names; by default `Open_ES`.

    Raises:
        UserError: evosax is not installed, has no such strategy, or the config asks for
            what it cannot do.
    """
    learner = _Learner(task, config)
    members = config.strategy.population
    return Algorithm(
        learner.init, compilers.jit(learner.step), members, trial=learner.step
    )


class _Learner:
    """The pair of pure functions, and what they share."""

    def __init__(self, task: Task, config: Config):
        named: Choice = getattr(task, "evosax", OPEN_ES)
        strategy = _found(named.name)
        accepted = inspect.signature(strategy).parameters
        shapings = _library("evosax.core.fitness_shaping")
        # Those that rank members have optimisers, too, which make their steps of 1.
        ranks = shapings.weights_fitness_shaping_fn
        is_ranking = accepted["fitness_shaping_fn"].default is ranks
        self.has_optimizer = "optimizer" in accepted and not is_ranking
        self.has_pairs = named.name in PAIRED and config.strategy.antithetic
        is_scheduled = "std_schedule" in accepted
        _check(config, named.name, self.has_optimizer, is_scheduled)
        self.task, self.strategy = task, (setting := config.strategy)
        self.optimizer = instantiate.optimizer(config)
        like = jax.eval_shape(task.init, jax.random.key(config.seed))
        arguments: dict[str, Any] = {
            "population_size": setting.population,
            "solution": jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like),
        }
        if self.has_optimizer:
            shaping = getattr(shapings, SHAPINGS[setting.shaping.name])
            arguments |= {"optimizer": self.optimizer, "fitness_shaping_fn": shaping}
        if "use_antithetic_sampling" in accepted:
            arguments["use_antithetic_sampling"] = setting.antithetic
        if is_scheduled:
            sigma = instantiate.schedule(setting.sigma)
            constant = optax.constant_schedule
            arguments["std_schedule"] = sigma if callable(sigma) else constant(sigma)
        with instantiate.blaming("task.evosax", (Exception,)):  # there are many
            self.es = strategy(**arguments)
            options = self.es.default_params
        self.options = _set(options, named, setting.sigma.start)

    def init(self, params: PyTree) -> PyTree:
        state = self.es.init(jax.random.key(0), params, self.options)
        # evosax makes the optimiser's state for zeros, and counts in Python's numbers.
        if self.has_optimizer:
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
        size, each = self.strategy.population, 2 if self.has_pairs else 1
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
        """Gives failed members what makes them count for nothing.

        That is the mean of the others, for them and their partners; where members are
        ranked, the worst.
        """
        each = 2 if self.has_pairs else 1
        usable = jnp.isfinite(fitness).reshape(-1, each).all(axis=1).repeat(each)
        mean = jnp.mean(fitness, where=usable)
        worst = jnp.min(fitness, where=usable, initial=jnp.inf)
        return jnp.where(usable, fitness, mean if self.has_optimizer else worst)

    def _in_our_order(self, x: Array) -> Array:
        """From all of one sign before all of the other, to neighbours."""
        if not self.has_pairs:
            return x
        return x.reshape(2, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)

    def _in_their_order(self, x: Array) -> Array:
        if not self.has_pairs:
            return x
        return x.reshape(-1, 2, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)


def _found(name: str) -> Any:
    """The class of that name; only those that have a mean to validate will do."""
    known = _library("evosax.algorithms").distribution_based_algorithms
    if name in known:
        return known[name]
    folded = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    there_is = f"there is: {', '.join(sorted(known))}"
    hint = f"did you mean {folded[near[0]]!r}?" if near else there_is
    raise UserError(
        f"task.evosax: evosax has no strategy {name!r:.80} that moves a mean: {hint}"
    )


def _set(options: Any, named: Choice, sigma: float) -> Any:
    """A strategy's options with those of the config; it starts from sigma."""
    own = vars(options)
    for name in named.options:
        if name not in own:
            raise UserError(
                f"task.evosax: {named.name} has no option {name!r:.80}; it has: "
                f"{', '.join(sorted(own)) or 'none'}"
            )
    # xNES multiplies its spread by its matrix, which starts as large.
    sigma = sigma**0.5 if named.name == "xNES" else sigma
    start: Mapping[str, Any] = {"std_init": sigma} if "std_init" in own else {}
    return options.replace(**{**start, **named.options})


def _check(config: Config, name: str, has_optimizer: bool, is_scheduled: bool) -> None:
    """Refuses settings that evosax has nothing for."""
    setting = config.strategy
    wrong = {
        "precision": config.precision != "float32" and "float32",
        "strategy.noise_reuse": setting.noise_reuse != 1 and "1",
        "strategy.rules": bool(setting.rules) and "none",
        "strategy.shaping": (has_optimizer and setting.shaping.name not in SHAPINGS)
        and f"one of {', '.join(SHAPINGS)}",
        "strategy.shaping's options": bool(has_optimizer and setting.shaping.options)
        and "none",
        "strategy.population": bool(name in PAIRED and setting.population % 2)
        and "an even number",
        "strategy.sigma": (not is_scheduled and setting.sigma.kind != "constant")
        and f"one number, which {name} adapts by itself",
    }
    for one, expected in wrong.items():
        if expected:
            raise UserError(f"algorithm: 'evosax' expects {one} to be {expected}")


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
