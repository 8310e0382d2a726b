"""A step of evolution as two programs: one evaluates, the other learns from numbers.

What the second computes depends on nothing that the first one found out but the fitness
(and, where sigma adapts by it, that of the centre): with these few numbers it is run
again, and, being the same program, gives the same bits. What the members share is what
a task makes of all that they told, and has to be kept beside them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Num, PyTree

from eggroll.config.schema import Config
from eggroll.evolution import compilers
from eggroll.evolution.generation import Generation
from eggroll.evolution.sharding import AXIS
from eggroll.task.check import first_batch
from eggroll.task.protocol import Task, first_row
from eggroll.training import donation, instantiate, scoring
from eggroll.training.state import Purpose, State, key_for


Metrics = dict[str, Array]
Compiler = Callable[..., Callable[..., Any]]


class Evaluated(NamedTuple):
    """What is known of a generation once its members have been evaluated.

    Attributes:
        generation: Which noise they had.
        fitness: Of each, as the update takes it: an array of JAX, or one of NumPy if
            it was found on the host.
        carry: What each keeps for the next step.
        aux: What they told, stacked.
        centre: Fitness of the parameters themselves, if somebody asks for it.
        told: Metrics of the host's.
    """

    generation: Generation
    fitness: Num[Any, " population"]
    carry: PyTree
    aux: dict[str, Any]
    centre: Any = None
    told: dict[str, Any] = {}  # noqa: RUF012


class Parts(NamedTuple):
    """The two programs that a step consists of.

    Attributes:
        evaluate: `(state, data) -> Evaluated`.
        learn: `(state, evaluated) -> (state, metrics)`.
        blank: `state -> Evaluated` in which only the generation is true, and the rest
            zeros of the right forms; evaluates nothing.
        carries: Whether an evaluation changes what members keep from step to step, so
            that fitness alone does not tell the next state.
        trial: `(state, data) -> ...`: as much of both as can be traced.
        is_in_jax: Whether the host has no part in a step, which can then be begun
            before what the last one found is known.
        programs: What `evaluate` and `learn` compile, where it can be traced.
        learn_over: As `learn`, but it may write over the state's arrays; None where
            there is no such program.
    """

    evaluate: Callable[[State, PyTree], Evaluated]
    learn: Callable[[State, Evaluated], tuple[State, Metrics]]
    blank: Callable[[State], Evaluated]
    carries: Callable[[], bool]
    trial: Callable[[State, PyTree], Any]
    is_in_jax: bool = False
    programs: tuple[Callable[..., Any], ...] = ()
    learn_over: Callable[[State, Evaluated], tuple[State, Metrics]] | None = None

    def step(self, state: State, data: PyTree) -> tuple[State, Metrics]:
        """Both, one after the other."""
        return self.learn(state, self.evaluate(state, data))


def in_jax(
    task: Task,
    config: Config,
    ask: Callable[..., tuple[tuple, Generation]],
    learn: Callable[..., tuple[State, Metrics]],
    *,
    has_centre: bool = False,
    compiler: Compiler = compilers.jit,
) -> Parts:
    """The parts of a step whose fitness comes out of `task.evaluate`.

    Args:
        task: What is learnt.
        config: Of the run.
        ask: Of an `Evolution`, or what does the same.
        learn: That too; None for `centre` is never given.
        has_centre: Whether the centre is evaluated, too.
        compiler: As `jax.jit`.
    """

    def evaluated(state: State, data: PyTree) -> Evaluated:
        (fitness, carry, aux), generation = ask(state, data)
        centre = _centre(task, state, data) if has_centre else None
        return Evaluated(generation, *_typed((fitness, carry, aux, centre)))

    def learnt(state: State, found: Evaluated) -> tuple[State, Metrics]:
        generation, fitness, carry, aux, centre, _ = found
        given = (centre,) if has_centre else ()
        return learn(state, generation, fitness, carry, aux, *given)

    lies = _lies(config)
    return Parts(
        compiler(evaluated, out_shardings=lies),
        compiler(learnt),
        _blank(task, config, evaluated, lies, compiler),
        functools.cache(lambda: changes_carry(task, config)),
        trial=lambda state, data: learnt(state, evaluated(state, data)),
        is_in_jax=True,
        programs=(evaluated, learnt),
        learn_over=donation.over(learnt, compiler),
    )


def on_host(
    task: Task,
    config: Config,
    ask: Callable[..., tuple[tuple, Generation]],
    learn: Callable[..., tuple[State, Metrics]],
    learn_over: Callable[..., tuple[State, Metrics]],
) -> Parts:
    """The parts of a step whose fitness is `task.score`, computed outside JAX.

    Args:
        task: What is learnt.
        config: Of the run.
        ask: Of an `Evolution`.
        learn: That too.
        learn_over: As `learn`, but it may write over the state's arrays.
    """
    usual = in_jax(task, config, ask, learn)

    def evaluate(state: State, data: PyTree) -> Evaluated:
        found = usual.evaluate(state, data)
        members = found.fitness.shape[0]
        scores, told = scoring.scored(task, found.aux, data, members)
        return found._replace(fitness=scores, told=told)

    def by(learn: Callable[..., tuple[State, Metrics]]) -> Callable[..., Any]:
        def learnt(state: State, found: Evaluated) -> tuple[State, Metrics]:
            generation, fitness, carry, aux, _, told = found
            state, metrics = learn(state, generation, fitness, carry, aux)
            return state, metrics | told

        return learnt

    def blank(state: State) -> Evaluated:
        found = usual.blank(state)
        return found._replace(fitness=np.zeros(found.fitness.shape))

    return Parts(
        evaluate,
        by(learn),
        blank,
        usual.carries,
        trial=usual.trial,
        programs=usual.programs,
        learn_over=by(learn_over),
    )


def changes_carry(task: Task, config: Config) -> bool:
    """Whether `task.evaluate` gives another carry than it got; computes nothing."""
    members = config.strategy.population
    axes = task.data_axes, 0
    data, carry = jax.eval_shape(
        lambda given: first_row(given, axes),
        (first_batch(task), task.initial_carry(members)),
    )

    def kept(carry: PyTree, params: PyTree, data: PyTree, key: Array) -> PyTree:
        return task.evaluate(params, data, carry, key)[1]

    given = carry, task.params_like(), data, jax.random.key(0)
    traced = jax.make_jaxpr(kept)(*given).jaxpr
    return list(traced.outvars) != traced.invars[: len(traced.outvars)]


def zeros(like: PyTree) -> PyTree:
    """Arrays of the shapes and types of others, random keys among them."""

    def one(x: Any) -> Any:
        if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jnp.zeros(x.shape, x.dtype)
        kinds = []  # which is not told of shapes alone
        jax.eval_shape(lambda x: kinds.append(jax.random.key_impl(x)), x)
        words = jax.eval_shape(jax.random.key_data, x)
        words = jnp.zeros(words.shape, words.dtype)
        return jax.random.wrap_key_data(words, impl=kinds[0])

    return jax.tree.map(one, like)


def _blank(
    task: Task, config: Config, evaluated: Callable, lies: Any, compiler: Compiler
) -> Callable[[State], Evaluated]:
    def blank(state: State) -> Evaluated:
        data = zeros(jax.eval_shape(lambda: first_batch(task)))
        found = evaluated(state, data)  # of which no more is computed than is used
        rest = jax.eval_shape(evaluated, state, data)
        return Evaluated(found.generation, *zeros(tuple(rest)[1:5]))

    return compiler(blank, out_shardings=lies)


def _lies(config: Config) -> Any:
    """Where lies what an evaluation finds: told, lest programs differ by it."""
    mesh = instantiate.mesh(config)
    everywhere = NamedSharding(mesh, PartitionSpec())
    is_split = config.strategy.population % mesh.shape[AXIS] == 0
    by_member = NamedSharding(mesh, PartitionSpec(AXIS)) if is_split else everywhere
    return Evaluated(
        generation=everywhere,  # pyrefly: ignore[bad-argument-type]
        fitness=everywhere,
        carry=by_member,
        aux=by_member,  # pyrefly: ignore[bad-argument-type]
        centre=everywhere,
        told=everywhere,  # pyrefly: ignore[bad-argument-type]
    )


def _centre(task: Task, state: State, data: PyTree) -> Float[Array, ""]:
    """The fitness of the unperturbed parameters, on the data that all members read."""
    carry = jax.tree.map(lambda x: x[0], state.carry)
    key = key_for(state.key, Purpose.CENTRE, state.step)
    return task.evaluate(state.params, data, carry, key)[0]


def _typed(tree: PyTree) -> PyTree:
    """Arrays whose types are their own, not those of Python's numbers."""

    def one(x: Any) -> Any:
        if jax.dtypes.issubdtype(jnp.result_type(x), jax.dtypes.prng_key):
            return x
        return jax.lax.convert_element_type(x, jnp.result_type(x))

    return jax.tree.map(one, tree)
