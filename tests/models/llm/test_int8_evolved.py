"""Weights of eight bits evolve, at the memory of inference with them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick

import eggroll
from models.llm import int8
from models.llm.config import TransformerConfig
from models.llm.generation import generate
from models.llm.scoring import score
from models.llm.transformer import Transformer


CONFIG = TransformerConfig(
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    feedforward=48,
    vocabulary=61,
    tied=True,
)
MODEL = Transformer(CONFIG)
TOKENS = jax.random.randint(jax.random.key(1), (4, 10), 0, 61)
STARTS, ENDS = jnp.array([2, 3, 2, 4]), jnp.array([10, 9, 8, 10])
PARAMS: Any = int8.quantise(quick.jit(MODEL.init)(jax.random.key(0)))


def rules_of(typical: dict[str, float]) -> dict[str, eggroll.Rule]:
    """Evolves all of eight bits by the noise that a float model would have."""
    rules: dict[str, eggroll.Rule] = {
        path: eggroll.low_rank(sigma_scale=1 / unit, quantised=True)
        for path, unit in typical.items()
    }
    return rules | {"*": eggroll.frozen}


ES = eggroll.EvolutionStrategy(
    population=64, sigma=0.02, rules=rules_of(int8.typical_units(PARAMS)), strict=True
)


def likelihood(params):
    return score(MODEL, params, TOKENS, STARTS, ENDS).mean()


@pytest.mark.slow
def test_members_are_explicitly_perturbed_models():
    """Base, noise and steps in their order: (q + sigma_q A Bᵀ) s, member by member."""
    outputs, generation = quick.jit(ES.ask(likelihood))(PARAMS, jax.random.key(2))
    one = quick.jit(likelihood)
    plain = one(PARAMS)
    for i in (0, 1, 63):
        member = ES.member(generation, PARAMS, i)
        np.testing.assert_allclose(one(int8.dequantise(member)), outputs[i], rtol=1e-4)
        assert abs(outputs[i] - plain) > 1e-3
        # The noise that a float model's weights would have, on average.
        for name in ("q", "down"):
            noise = (
                int8.dequantise(member)["layers"][name]
                - int8.dequantise(PARAMS)["layers"][name]
            )
            assert np.isclose(np.sqrt(np.mean(noise**2)), 0.02, rtol=1e-3)


def evolved(dtype, steps: int) -> Any:
    """Evolves, by steps below a half of what the whole numbers can take."""
    mask = eggroll.trainable(PARAMS, ES.rules)
    optimizer = eggroll.with_residual(
        optax.sgd(2e-5), units=int8.units, mask=mask, dtype=dtype
    )
    learn = ES.value_and_grad(fitness=likelihood)

    def step(carry, i):
        params, state = carry
        value, grads = learn(params, jax.random.key(3), step=i)
        updates, state = optimizer.update(grads, state, params)
        sizes = [jnp.abs(x).max() for x in jax.tree.leaves(updates)]
        carry = optax.apply_updates(params, updates), state
        return carry, (value, jnp.stack([x.astype(jnp.float32) for x in sizes]).max())

    run = lambda params: jax.lax.scan(
        step, (params, optimizer.init(params)), jnp.arange(steps)
    )
    return quick.jit(run)(PARAMS)


@pytest.mark.slow
def test_log_likelihood_improves_by_steps_below_one():
    (after, _), (values, largest) = evolved(jnp.int8, 40)
    assert values[-1] > values[0] + 2
    assert largest.max() == 1
    assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, PARAMS)


@pytest.mark.slow
def test_residuals_of_eight_bits_learn_what_those_of_float32_do():
    (ours, _), (values, _) = evolved(jnp.int8, 40)
    (theirs, _), (wanted, _) = evolved(jnp.float32, 40)
    np.testing.assert_allclose(values, wanted, atol=0.1)
    for name in ("q", "down"):
        a, b = (x["layers"][name]["int8"].astype(int) for x in (ours, theirs))
        moved = b != PARAMS["layers"][name]["int8"]
        assert moved.mean() > 0.1
        assert (a != b).mean() < 0.2 * moved.mean()


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["generation", "scoring"])
def test_a_population_takes_the_memory_of_inference_with_them(rows):
    """Within a fifth, factors aside, for the same rows; of which weights are a part."""
    config = TransformerConfig(
        width=256,
        layers=8,
        heads=4,
        kv_heads=2,
        head_dim=64,
        feedforward=1024,
        vocabulary=8192,
        tied=True,
    )
    model, n = Transformer(config), 32
    shape = jax.ShapeDtypeStruct
    floats = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    params = jax.eval_shape(int8.quantise, floats)
    paths = int8.typical_units(PARAMS)
    es = eggroll.EvolutionStrategy(
        population=n, sigma=0.02, rules=rules_of(paths), strict=True, chunk_size=n
    )

    def run(params, tokens, lengths):
        if rows == "scoring":
            return score(model, params, tokens, lengths // 2, lengths)
        return generate(model, params, tokens, lengths, new_tokens=16).tokens

    def memory(function, *args):
        compiled = jax.jit(function).lower(*args).compile()
        analysis: Any = compiled.memory_analysis()
        return analysis.argument_size_in_bytes + analysis.temp_size_in_bytes

    tokens, lengths = shape((n, 16), jnp.int32), shape((n,), jnp.int32)
    plain = memory(run, params, tokens, lengths)
    ask = es.ask(run, in_axes=0)
    member = shape((n, 1, 16), jnp.int32), shape((n, 1), jnp.int32)
    key = jax.random.key(0)
    population = memory(lambda p, *x: ask(p, key, *x)[0], params, *member)
    _, generation = jax.eval_shape(ask, params, key, *member)
    factors = n * sum(layout.values for layout in generation.layouts)
    assert population <= 1.2 * plain + factors
    weights = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(floats))
    if rows == "generation":
        assert population < weights + plain
