import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import quick

from models.llm import transformer
from models.llm.checkpoint import load
from models.llm.config import Rope, TransformerConfig
from models.llm.generation import generate
from models.llm.rope import angles_of, frequencies, rotate
from models.llm.transformer import Transformer


CONFIG = TransformerConfig(
    width=32,
    layers=3,
    heads=4,
    kv_heads=2,
    head_dim=16,
    feedforward=40,
    vocabulary=61,
    attention_bias=True,
    qk_norm=True,
)
MODEL = Transformer(CONFIG)
LENGTHS = jnp.array([3, 11, 7, 1])
EMPTY = MODEL.init_state(4, 13)


@pytest.fixture(scope="module")
def golden():
    with np.load(parity.GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module", params=parity.CASES)
def case(request, tmp_path_factory):
    fields = parity.CASES[request.param]
    directory = tmp_path_factory.mktemp("checkpoint")
    config, params = load(parity.put(directory, fields, parity.weights(fields)))
    return request.param, Transformer(config), params


@pytest.fixture(scope="module")
def params():
    return quick.jit(MODEL.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def tokens():
    return jax.random.randint(jax.random.key(1), (4, 11), 0, CONFIG.vocabulary)


@pytest.fixture(scope="module")
def expected(params, tokens):
    return logits(MODEL, params, tokens)


@functools.partial(quick.jit, static_argnums=0)
def logits(model, params, tokens):
    return model.head(params, model.hidden(params, tokens))


prefill, decode = quick.jit(MODEL.prefill), quick.jit(MODEL.decode)


def test_logits_are_those_of_transformers(case, golden):
    name, model, params = case
    found = logits(model, params, parity.tokens())[:, :: parity.EVERY]
    np.testing.assert_allclose(found, golden[f"{name}/logits"], atol=1e-4, rtol=0)


def test_64_greedy_tokens_are_those_of_transformers(case, golden):
    name, model, params = case
    longest = max(parity.PROMPTS)
    # Rows of mixed lengths, with a padding that would change what follows, if read.
    prompts = jnp.asarray(parity.tokens()[:, :longest].repeat(3, axis=0))
    run = quick.jit(
        lambda params, prompts: generate(
            model,
            params,
            prompts,
            jnp.array(parity.PROMPTS),
            new_tokens=parity.NEW_TOKENS,
            end_tokens=(),
        )
    )
    np.testing.assert_array_equal(run(params, prompts).tokens, golden[f"{name}/tokens"])


def test_a_prompt_read_at_once_is_the_prompt_read_step_by_step(
    params, tokens, expected
):
    whole = jnp.full(4, 11)
    last, _ = prefill(params, tokens, whole, EMPTY)
    np.testing.assert_allclose(last, expected[:, -1], atol=2e-5)
    _, state = prefill(params, tokens[:, :1], jnp.ones(4, int), EMPTY)
    for i in range(1, 11):
        found, state = decode(params, tokens[:, i], state)
        np.testing.assert_allclose(found, expected[:, i], atol=2e-5)


def test_rows_of_mixed_lengths_go_on_as_each_would_alone(params, tokens, expected):
    found, state = prefill(params, tokens, LENGTHS, EMPTY)
    np.testing.assert_allclose(found, expected[jnp.arange(4), LENGTHS - 1], atol=2e-5)
    following = jnp.array([5, 0, 60, 1])
    found, _ = decode(params, following, state)
    for row, length in enumerate(LENGTHS):
        alone = jnp.append(tokens[row, :length], following[row])[None]
        whole = jnp.pad(alone, ((0, 0), (0, 12 - alone.shape[1])))
        want = logits(MODEL, params, whole)[0, length]
        np.testing.assert_allclose(found[row], want, atol=2e-5)


def test_what_pads_a_row_changes_nothing(params, tokens):
    beyond = jnp.arange(11) >= LENGTHS[:, None]
    results = []
    for padding in (0, 7):
        padded = jnp.where(beyond, padding, tokens)
        first, state = prefill(params, padded, LENGTHS, EMPTY)
        second, _ = decode(params, jnp.zeros(4, int), state)
        results.append((first, second))
    np.testing.assert_array_equal(*results)


def test_scanned_layers_equal_unrolled_ones(params, tokens, expected):
    unrolled = dataclasses.replace(MODEL, unrolled=True)
    np.testing.assert_allclose(logits(unrolled, params, tokens), expected, atol=2e-5)


def test_rows_taken_from_a_cache_go_on_without_the_others(params, tokens):
    _, state = prefill(params, tokens, LENGTHS, EMPTY)
    rows = jnp.array([2, 0])
    some, _ = decode(params, jnp.array([3, 4]), MODEL.take(state, rows))
    every, _ = decode(params, jnp.array([4, 0, 3, 0]), state)
    np.testing.assert_allclose(some, every[rows], atol=2e-5)


def test_bfloat16_computes_in_bfloat16_and_is_near(params, tokens, expected):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    hidden = jax.eval_shape(MODEL.hidden, half, tokens)
    found = logits(MODEL, half, tokens)
    assert hidden.dtype == jnp.bfloat16
    assert found.dtype == jnp.float32
    error = jnp.sqrt(jnp.mean((found - expected) ** 2) / jnp.mean(expected**2))
    assert error < 0.05


def test_models_of_equal_configuration_are_equal():
    assert Transformer(dataclasses.replace(CONFIG)) == MODEL
    assert hash(MODEL) == hash(Transformer(dataclasses.replace(CONFIG)))


def test_a_tied_head_is_one_leaf():
    tied = Transformer(dataclasses.replace(CONFIG, tied=True))
    assert "head" not in jax.eval_shape(tied.init, jax.random.key(0))


def test_scores_of_rotated_heads_depend_on_the_distance_alone():
    q, k = jax.random.normal(jax.random.key(2), (2, 1, 1, 64))
    at = lambda n: angles_of(jnp.array([n]), Rope(), 64)
    score = lambda m, n: jnp.vdot(rotate(q, at(m)), rotate(k, at(n)))
    np.testing.assert_allclose(score(5, 2), score(105, 102), rtol=1e-4)
    np.testing.assert_allclose(score(7, 7), jnp.vdot(q, k), rtol=1e-5)


def test_llama3_leaves_short_wavelengths_and_slows_long_ones():
    plain = frequencies(Rope(500.0), 64)
    slowed = frequencies(Rope(500.0, "llama3", 8.0, 1.0, 4.0, 64), 64)
    wavelength = 2 * np.pi / plain
    short, long = wavelength < 64 / 4, wavelength > 64
    np.testing.assert_array_equal(slowed[short], plain[short])
    np.testing.assert_allclose(slowed[long], plain[long] / 8, rtol=1e-6)
    between = ~short & ~long
    assert between.sum() > 2
    assert ((slowed < plain) & (slowed > plain / 8))[between].all()


# --- Long prompts


def test_queries_in_blocks_attend_as_all_at_once(params, tokens, expected, monkeypatch):
    monkeypatch.setattr(transformer, "SCORES", 3 * 11)  # 4 blocks of 3; 12 are 11 and 1
    blocked = quick.jit(lambda p: MODEL.head(p, MODEL.hidden(p, tokens)))(params)
    np.testing.assert_allclose(blocked, expected, atol=2e-5)
    state = MODEL.init_state(4, 13)
    read = quick.jit(lambda p: MODEL.prefill(p, tokens, LENGTHS, state)[1])(params)
    whole = prefill(params, tokens, LENGTHS, EMPTY)[1]
    for name in ("keys", "values"):
        ours, theirs = getattr(read, name)[..., :11, :], getattr(whole, name)
        np.testing.assert_allclose(ours, theirs[..., :11, :], atol=2e-5)


def test_scores_of_a_long_prompt_are_never_held_whole():
    length, rows = 4096, 1
    small = dataclasses.replace(CONFIG, layers=1, width=8, feedforward=8, head_dim=4)
    model = Transformer(dataclasses.replace(small, context=2 * length))
    like = jax.eval_shape(model.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    compiled = quick.jit(model.hidden).lower(like, tokens).compile()
    whole = rows * small.heads * length**2 * 4  # bytes
    assert compiled.memory_analysis().temp_size_in_bytes < whole / 4
    prompt = lambda n: str(jax.make_jaxpr(model.hidden)(like, jnp.zeros((1, n), int)))
    assert prompt(1024).count("scan") == 1  # short ones are one block, without a loop
    assert prompt(1025).count("scan") == 2
