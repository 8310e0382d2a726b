"""What a program takes, told from its trace, against what XLA's programs take."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

import eggroll
from eggroll.evolution import compilers
from eggroll.evolution.footprint import footprint
from eggroll.integer.compilation import KEEPING
from eggroll.integer.strategy import IntegerStrategy
from eggroll.integer.updates import memoryless
from models.egg import Egg
from models.llm.config import TransformerConfig
from models.llm.generation import generate
from models.llm.transformer import Transformer


KEY = jax.random.key(0)
X = jnp.ones((8, 100))  # 3,200 bytes
W = jnp.ones((100, 50))


def between(function, *args) -> int:
    return footprint(jax.make_jaxpr(function)(*args)).temporaries


def test_arguments_and_results_are_counted_whole():
    found = footprint(jax.make_jaxpr(lambda x, w: (x @ w, x.sum(1)))(X, W))
    assert found.arguments == 4 * (8 * 100 + 100 * 50)
    assert found.results == 4 * (8 * 50 + 8)
    assert found.peak == sum(found)


@pytest.mark.parametrize("donated", [0, 1])
def test_results_take_the_place_of_what_is_donated(donated):
    closed = jax.make_jaxpr(lambda x, y: (x + y, y.sum()))(X, X)
    assert footprint(closed, donated).results == 3200 * (1 - donated) + 4


def test_elementwise_operations_keep_nothing_between_products():
    chain = lambda x, w: jnp.exp(jnp.tanh(x @ w) * 2 + 1)
    assert between(chain, X, W) == 4 * 8 * 50  # the product


def test_what_a_product_reads_is_written_down():
    assert between(lambda x, w: jnp.tanh(x) @ w, X, W) == 3200


def test_what_is_not_needed_any_more_makes_room():
    square = jnp.ones((20, 20))
    powers = lambda x: functools.reduce(lambda y, _: jnp.tanh(y) @ x, range(9), x)
    assert between(powers, square) == 2 * 4 * 400


def test_what_nobody_reads_takes_nothing():
    assert between(lambda x, w: (x, x @ w)[0] + 1, X, W) == 0


def test_a_loop_keeps_its_state_once_whatever_its_length():
    loop = lambda count: (
        lambda x: jax.lax.fori_loop(0, count, lambda i, x: x @ jnp.ones((100, 100)), x)
    )
    few, many = (between(loop(count), X) for count in (2, 1000))
    assert few == many


def test_a_state_that_is_changed_in_place_is_no_second_one():
    def fill(x):
        put = lambda i, x: x.at[i].set(i.astype(jnp.float32))
        return jax.lax.fori_loop(0, 8, put, x + 1) @ W

    assert between(fill, X) < 1.2 * 3200


def test_long_sums_are_not_of_the_kernel_that_makes_their_terms():
    assert between(lambda x, w: jnp.exp(x).sum(0) @ w, X, W) == 400
    assert between(lambda x, y: jnp.exp(x).sum(1) @ y, X, X) == 3200 + 32


# --- Against XLA


def mlp(chunk=None):
    """A step of evolution, with an optimiser that keeps two moments."""
    params = [jnp.zeros((64, 64))] * 3
    optimizer = optax.adam(0.01)
    es = eggroll.EvolutionStrategy(2048, sigma=0.1, chunk_size=chunk)

    def loss(params, x):
        return jnp.sum(functools.reduce(lambda x, w: jnp.tanh(x @ w), params, x))

    def step(params, state, key, x):
        value, grads = es.value_and_grad(loss)(params, key, x)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    return step, (params, optimizer.init(params), KEY, jnp.ones((16, 64)))


def generation():
    """Completions by a Transformer, whose keys and values are kept."""
    sizes = {"width": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16}
    sizes |= {"feedforward": 128, "vocabulary": 61, "context": 64}
    model = Transformer(TransformerConfig(**sizes))
    params = jax.eval_shape(model.init, KEY)
    es = eggroll.EvolutionStrategy(64, sigma=0.1)
    starts = jnp.full(4, 20)

    def complete(params, prompts):
        return generate(model, params, prompts, starts, new_tokens=20).tokens

    ask = lambda params, prompts: es.ask(complete)(params, KEY, prompts)[0]
    return ask, (params, jnp.zeros((4, 20), jnp.int32))


def egg():
    """A step of the integer language model."""
    model = Egg(2, 64)
    params = jax.eval_shape(model.init, KEY)
    es = IntegerStrategy(512, sigma_shift=4)
    rule = memoryless(lambda step: 0.1)

    def step(params, tokens):
        def read(params, tokens):
            return model.log_likelihood(params, model.initial_state(), tokens)[0]

        fitness, asked = es.ask(read)(params, KEY, tokens)
        votes = es.votes(asked, fitness)
        return rule.update(votes, (), params, 0, es.vote_std(asked))[0]

    return step, (params, jnp.zeros(32, jnp.uint8))


CASES = {
    "mlp": mlp,
    "mlp, in chunks": functools.partial(mlp, 128),
    "transformer with its keys and values": generation,
    "integer language model": egg,
}


DEAR = ("transformer with its keys and values", "integer language model")


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[pytest.mark.slow] if x in DEAR else []) for x in CASES],
)
def test_the_peak_is_within_a_quarter_of_what_the_compiled_program_takes(name):
    function, args = CASES[name]()
    planned = footprint(jax.make_jaxpr(function)(*args))
    options = {"xla_backend_optimization_level": 0} | compilers.frugal()
    options |= KEEPING if name.startswith("integer") else {}
    compiled = jax.jit(function, compiler_options=options).lower(*args).compile()
    taken = compiled.memory_analysis()
    assert planned.arguments == pytest.approx(taken.argument_size_in_bytes, rel=0.01)
    whole = (
        taken.argument_size_in_bytes
        + taken.output_size_in_bytes
        + taken.temp_size_in_bytes
        - taken.alias_size_in_bytes
    )
    assert 0.75 < planned.peak / whole < 1.25
