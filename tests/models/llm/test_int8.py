"""Weights of eight bits: what they stand for, and what they cost."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from models.llm import int8
from models.llm.config import TransformerConfig
from models.llm.generation import generate
from models.llm.rwkv7 import RWKV7
from models.llm.rwkv7_config import RWKV7Config
from models.llm.transformer import Transformer


CONFIG = TransformerConfig(
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    feedforward=48,
    vocabulary=61,
    attention_bias=True,
)
RECURRENT = RWKV7Config(
    width=64,
    layers=2,
    heads=2,
    feedforward=96,
    vocabulary=61,
    decay_rank=8,
    rate_rank=8,
    value_rank=8,
    gate_rank=8,
)
MODELS = {
    "tied": Transformer(dataclasses.replace(CONFIG, tied=True)),
    "untied": Transformer(dataclasses.replace(CONFIG, tied=False)),
    "rwkv7": RWKV7(RECURRENT),
}
TOKENS = jax.random.randint(jax.random.key(1), (3, 9), 0, 61)


@functools.cache
def drawn(model: Any, dtype: Any = jnp.float32) -> Any:
    params = quick.jit(model.init, static_argnums=1)(jax.random.key(0), dtype)
    # Those that start at zero, too, have something to say.
    return jax.tree.map(lambda x: x + jnp.asarray(0.01, x.dtype), params)


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[pytest.mark.slow] if x != "tied" else []) for x in MODELS],
)
def test_a_model_computes_with_what_they_stand_for(name, monkeypatch):
    model = MODELS[name]
    monkeypatch.setattr(int8, "BLOCK", 7 * model.config.width)  # 61 = 8 · 7 + 5
    whole = int8.quantise(drawn(model))

    def run(params):
        return model.head(params, model.hidden(params, TOKENS))

    ours, theirs = (quick.jit(run)(p) for p in (whole, int8.dequantise(whole)))
    np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=1e-4)


def test_a_model_generates_with_what_they_stand_for():
    whole = int8.quantise(drawn(MODELS["tied"]))

    def run(params):
        lengths = jnp.array([9, 4, 6])
        return generate(
            MODELS["tied"], params, TOKENS, lengths, new_tokens=5, end_tokens=()
        ).tokens

    ours, theirs = (quick.jit(run)(p) for p in (whole, int8.dequantise(whole)))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_quantised_is_every_matrix_but_thin_ones(name):
    params = drawn(MODELS[name])
    whole = int8.quantise(params)
    flat, _ = jax.tree_util.tree_flatten_with_path(whole, is_leaf=int8.is_quantised)
    kept = [leaf for _, leaf in flat if not int8.is_quantised(leaf)]
    assert all(leaf.ndim < 3 or min(leaf.shape[-2:]) <= 8 for leaf in kept)
    assert len(flat) > len(kept)
    back = int8.dequantise(whole)
    assert jax.tree.structure(back) == jax.tree.structure(params)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_an_error_is_at_most_half_a_step(dtype):
    params = drawn(MODELS["tied"], dtype)
    whole = int8.quantise(params)
    wide = lambda x: np.asarray(x, np.float64)
    for name in ("embed", "down"):
        of = lambda tree, name=name: (
            tree[name] if name == "embed" else tree["layers"][name]
        )
        matrix, found = of(params), of(whole)
        step = wide(found["scale"])
        error = wide(matrix) - wide(found["int8"]) * step
        # The step itself is rounded to bfloat16, and what it stands for at the end.
        slack = 1e-6 if dtype == jnp.float32 else 127 * 2.0**-8
        assert (np.abs(error) <= step * (0.5 + slack)).all()
        assert found["int8"].dtype == jnp.int8
        assert found["scale"].dtype == dtype
        assert int(jnp.max(jnp.abs(found["int8"].astype(int)))) == int8.LIMIT


def test_a_channel_of_zeros_has_steps_as_others_have():
    weight = jnp.ones((2, 16, 3)).at[:, :, 1].set(0)
    found = int8.quantise({"q": weight})["q"]
    np.testing.assert_allclose(found["scale"][:, 0, 1], 16**-0.5 / 127, rtol=1e-6)
    np.testing.assert_array_equal(found["int8"][:, :, 1], 0)


def test_weights_may_be_left_room_to_grow():
    found = int8.quantise(drawn(MODELS["tied"]), largest=100)
    whole = np.abs(np.asarray(found["layers"]["q"]["int8"], int))
    np.testing.assert_array_equal(whole.max(axis=1), 100)


def test_quantised_again_nothing_changes():
    whole = int8.quantise(drawn(MODELS["tied"]))
    assert jax.tree.all(jax.tree.map(np.array_equal, int8.quantise(whole), whole))


def test_a_unit_is_what_one_of_the_whole_numbers_is_worth():
    whole = int8.quantise(drawn(MODELS["tied"]))
    worth = jax.tree.map(lambda x, unit: x * unit, whole, int8.units(whole))
    back = int8.dequantise(whole)
    np.testing.assert_array_equal(worth["layers"]["q"]["int8"], back["layers"]["q"])
    np.testing.assert_array_equal(worth["norm"], back["norm"])
    typical = int8.typical_units(whole)
    assert set(typical) == {
        "embed/int8",
        *(f"layers/{name}/int8" for name in ("q", "k", "v", "o", "gate", "up", "down")),
    }
    steps = np.asarray(whole["layers"]["q"]["scale"])
    assert np.isclose(typical["layers/q/int8"], np.sqrt((steps**2).mean()))


QWEN = TransformerConfig(  # the shape of Qwen2.5-0.5B
    width=896,
    layers=24,
    heads=14,
    kv_heads=2,
    head_dim=64,
    feedforward=4864,
    vocabulary=151936,
    attention_bias=True,
    tied=True,
)
SMOLLM = TransformerConfig(  # and of SmolLM2-135M
    width=576,
    layers=30,
    heads=9,
    kv_heads=3,
    head_dim=64,
    feedforward=1536,
    vocabulary=49152,
    tied=True,
)
RWKV = RWKV7Config(  # and of RWKV-7 of 0.4B
    width=1024,
    layers=24,
    heads=16,
    feedforward=4096,
    vocabulary=65536,
    decay_rank=64,
    rate_rank=64,
    value_rank=32,
    gate_rank=128,
)


def repr_of(model: Any) -> str:
    return f"{type(model).__name__}-{model.config.width}"


def bytes_of(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "model", [Transformer(QWEN), Transformer(SMOLLM), RWKV7(RWKV)], ids=repr_of
)
@pytest.mark.parametrize(("dtype", "most"), [(jnp.float32, 0.35), (jnp.bfloat16, 0.6)])
def test_they_take_about_a_quarter_of_float32_s_memory(model, dtype, most):
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), dtype))
    whole = jax.eval_shape(int8.quantise, params)
    assert bytes_of(whole) <= most * bytes_of(params)


@pytest.mark.slow
def test_generating_makes_no_float_copy_of_the_weights(monkeypatch):
    """Neither of the stack of layers nor of the embedding, in a loop over tokens."""
    monkeypatch.setattr(int8, "BLOCK", 2**16)
    config = dataclasses.replace(
        CONFIG, width=128, layers=8, feedforward=512, vocabulary=8192, tied=True
    )
    model = Transformer(config)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    whole = jax.eval_shape(int8.quantise, params)
    stack, embed = bytes_of(params["layers"]), params["embed"].size * 4

    def temporary(params):
        run = lambda p, t: generate(model, p, t, jnp.full(2, 4), new_tokens=4).tokens
        tokens = jax.ShapeDtypeStruct((2, 4), jnp.int32)
        compiled = jax.jit(run).lower(params, tokens).compile()
        analysis: Any = compiled.memory_analysis()
        return analysis.temp_size_in_bytes

    more = temporary(whole) - temporary(params)
    one = 128 * 512 * 4  # the largest matrix of a layer, in float32
    assert more < 4 * one < min(stack, embed) / 2
