"""RWKV-7: the package's numbers, and its formulas spelt out token by token."""

import dataclasses

import jax
import jax.numpy as jnp
import jaxprs
import numpy as np
import parity_rwkv
import pytest
import quick
from parity_rwkv import CONFIG, GOLDEN, LENGTHS, NEW

import eggroll
from models.llm.generation import generate
from models.llm.rwkv7 import RWKV7
from models.llm.rwkv7_config import RWKV7Config


MODEL = RWKV7(CONFIG)
SMALL = RWKV7Config(
    width=16,
    layers=2,
    heads=2,
    feedforward=24,
    vocabulary=11,
    decay_rank=4,
    rate_rank=3,
    value_rank=2,
    gate_rank=5,
)


@pytest.fixture(scope="module")
def params() -> dict:
    return jax.tree.map(jnp.asarray, parity_rwkv.params_of(CONFIG))


def padded(rows: list[list[int]], padding: int = 0) -> tuple[jax.Array, jax.Array]:
    lengths = [len(row) for row in rows]
    filled = [row + [padding] * (max(lengths) - len(row)) for row in rows]
    return jnp.array(filled), jnp.array(lengths)


@quick.jit
def read(params, tokens, lengths):
    return MODEL.prefill(params, tokens, lengths, MODEL.init_state(len(tokens)))


def greedy(model: RWKV7, params, tokens, lengths, new: int):
    """The likeliest tokens, one after another: batch × new."""
    options = {"new_tokens": new, "end_tokens": ()}
    return generate(model, params, tokens, lengths, **options).tokens


def close(x, y, tolerance=1e-5):
    x, y = (np.asarray(z, np.float32) for z in (x, y))
    np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * max(1, np.abs(y).max()))


# --- Agreement


def test_logits_are_those_of_the_package(params):
    every = quick.jit(lambda p, tokens: MODEL.head(p, MODEL.hidden(p, tokens)))
    rows = parity_rwkv.prompts(CONFIG)
    golden = np.split(np.load(GOLDEN)["logits"], np.cumsum(LENGTHS)[:-1])
    logits = every(params, padded(rows)[0])  # padding follows, and is not seen
    for ours, theirs in zip(logits, golden, strict=True):
        np.testing.assert_allclose(ours[: len(theirs)], theirs, rtol=0, atol=1e-4)
    last, _ = read(params, *padded(rows))
    for ours, theirs in zip(last, golden, strict=True):
        np.testing.assert_allclose(ours, theirs[-1], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "unrolled", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_greedy_tokens_are_those_of_the_package(unrolled, params):
    model = dataclasses.replace(MODEL, unrolled=unrolled)
    run = quick.jit(lambda p, *rows: greedy(model, p, *rows, NEW))
    ours = run(params, *padded(parity_rwkv.prompts(CONFIG)))
    np.testing.assert_array_equal(ours, np.load(GOLDEN)["greedy"])


def test_a_step_is_the_formulas_spelt_out(params):
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    (row,) = parity_rwkv.prompts(CONFIG, (9,))
    expected = spelt_out(exact, row)
    logits, _ = read(params, *padded([row]))
    close(logits[0], expected, 2e-5)


def spelt_out(p: dict, row: list[int]) -> np.ndarray:
    """One text, token by token and layer by layer, in float64."""
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    heads = lambda x: x.reshape(CONFIG.heads, -1)

    def norm(x, scale, bias, eps=1e-5):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
        return x.reshape(scale.shape) * scale + bias

    width = CONFIG.width
    size = width // CONFIG.heads
    before = np.zeros((CONFIG.layers, 2, width))
    memory = np.zeros((CONFIG.layers, CONFIG.heads, size, size))
    for token in row:
        x = norm(p["embed"][token], p["embed_norm"], p["embed_norm_bias"])
        for i in range(CONFIG.layers):
            l = {name: leaf[i] for name, leaf in p["layers"].items()}
            y = norm(x, l["time_norm"], l["time_norm_bias"])
            mixed = {c: y + l[f"x_{c}"] * (before[i, 0] - y) for c in "rwkvag"}
            before[i, 0] = y
            r, k, v = (mixed[c] @ l[c] for c in "rkv")
            thin = {c: mixed[c] @ l[f"{c}1"] for c in "wavg"}
            w = sigmoid(l["w0"] + np.tanh(thin["w"]) @ l["w2"])
            decay = np.exp(-w / np.sqrt(np.e))
            a = sigmoid(l["a0"] + thin["a"] @ l["a2"])
            g = sigmoid(thin["g"]) @ l["g2"]
            if i == 0:
                first = v
            else:
                v = v + (first - v) * sigmoid(l["v0"] + thin["v"] @ l["v2"])
            out = heads(k * l["k_k"])
            out = out / np.linalg.norm(out, axis=-1, keepdims=True)
            k = k * (1 + (a - 1) * l["k_a"])
            y = np.zeros((CONFIG.heads, size))
            for h in range(CONFIG.heads):
                s = memory[i, h]
                s = (
                    s @ np.diag(heads(decay)[h])
                    - np.outer(s @ out[h], out[h] * heads(a)[h])
                    + np.outer(heads(v)[h], heads(k)[h])
                )
                memory[i, h], y[h] = s, s @ heads(r)[h]
            y = norm(y, l["head_norm"], l["head_norm_bias"], 64e-5)
            own = heads(r * k * l["r_k"]).sum(-1, keepdims=True) * heads(v)
            x = x + ((y + own.reshape(-1)) * g) @ l["o"]
            y = norm(x, l["channel_norm"], l["channel_norm_bias"])
            inner = (y + l["x_c"] * (before[i, 1] - y)) @ l["expand"]
            before[i, 1] = y
            x = x + np.maximum(inner, 0) ** 2 @ l["contract"]
    return norm(x, p["norm"], p["norm_bias"]) @ p["head"]


# --- Identities


def test_reading_at_once_is_reading_step_by_step(params):
    (row,) = parity_rwkv.prompts(CONFIG, (9,))
    at_once, state = read(params, *padded([row]))
    step = quick.jit(MODEL.decode)
    steps = MODEL.init_state(1)
    for token in row:
        logits, steps = step(params, jnp.array([token]), steps)
    close(logits, at_once)
    jax.tree.map(close, steps, state)


@pytest.mark.slow
def test_layers_one_by_one_are_layers_scanned(params):
    model = dataclasses.replace(MODEL, unrolled=True)
    rows = padded(parity_rwkv.prompts(CONFIG))
    some, token = jnp.array([2, 0]), jnp.array([3, 4])

    def run(model, params):
        logits, state = model.prefill(params, *rows, model.init_state(3))
        return logits, *model.decode(params, token, model.take(state, some))

    read, logits, state = quick.jit(lambda p: run(model, p))(params)
    expected = quick.jit(lambda p: run(MODEL, p))(params)
    jax.tree.map(close, (read, logits, state), expected)


def test_a_prompt_can_be_read_in_two_parts(params):
    rows = parity_rwkv.prompts(CONFIG, (9, 9))
    whole, expected = read(params, *padded(rows))
    _, state = read(params, *padded([rows[0][:2], rows[1][:5]]))
    rest = padded([rows[0][2:], rows[1][5:]])
    logits, state = quick.jit(MODEL.prefill)(params, *rest, state)
    close(logits, whole)
    jax.tree.map(close, state, expected)


def test_a_row_is_the_same_in_any_company(params):
    rows = parity_rwkv.prompts(CONFIG)
    together, states = read(params, *padded(rows))
    for i, row in enumerate(rows):
        alone, state = read(params, *padded([row]))
        close(together[i], alone[0])
        jax.tree.map(lambda x, y, i=i: close(x[:, i], y[:, 0]), states, state)


def test_padding_is_without_effect_to_the_bit(params):
    rows = parity_rwkv.prompts(CONFIG)
    zeros, others = (read(params, *padded(rows, padding)) for padding in (0, 5))
    jax.tree.map(np.testing.assert_array_equal, zeros, others)


def test_nothing_depends_on_layer_0s_mix_of_values(params):
    changed = {
        name: leaf.at[0].add(3.0) if name in ("v0", "v1", "v2") else leaf
        for name, leaf in params["layers"].items()
    }
    rows = padded(parity_rwkv.prompts(CONFIG))
    with_them, _ = read({**params, "layers": changed}, *rows)
    np.testing.assert_array_equal(with_them, read(params, *rows)[0])


def test_in_bfloat16_the_memory_is_float32_and_logits_are_near(params):
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    rows = padded(parity_rwkv.prompts(CONFIG))
    state = MODEL.init_state(3, dtype=jnp.bfloat16)
    logits, state = quick.jit(MODEL.prefill)(narrow, *rows, state)
    assert (state.time.dtype, state.memory.dtype) == (jnp.bfloat16, jnp.float32)
    assert logits.dtype == jnp.float32
    close(logits, read(params, *rows)[0], 0.1)


def test_drawn_parameters_have_the_shapes_and_give_logits_of_order_one(getkey):
    model = RWKV7(SMALL)
    params = quick.jit(model.init)(getkey())
    tokens = jnp.arange(8).reshape(2, 4)
    logits = quick.jit(lambda p: model.head(p, model.hidden(p, tokens)))(params)
    assert logits.shape == (2, 4, 11)
    assert 0.1 < jnp.std(logits) < 10
    assert not params["layers"]["v1"][0].any()
    assert hash(model) == hash(RWKV7(dataclasses.replace(SMALL)))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="got a width of 16 and 3 heads"):
        dataclasses.replace(SMALL, heads=3)


# --- Evolved


@pytest.mark.parametrize("reading", ["prefill", "decode", "unrolled", "hidden"])
def test_no_matrix_is_written_out_and_vectors_are_full_rank(reading, params):
    def fn(params, tokens):
        state = MODEL.init_state(2)
        if reading == "prefill":
            return MODEL.prefill(params, tokens, jnp.array([3, 5]), state)
        if reading == "decode":
            return MODEL.decode(params, tokens[:, 0], state)
        if reading == "unrolled":
            model = dataclasses.replace(MODEL, unrolled=True)
            return model.decode(params, tokens[:, 0], model.init_state(2))
        return MODEL.head(params, MODEL.hidden(params, tokens))

    report = eggroll.coverage(fn, params, jnp.zeros((2, 5), int))
    assert report.written_out == ()
    for leaf in report.leaves:
        layout = leaf.layout
        dims = len(layout.shape) - layout.path.startswith("layers/")
        assert bool(layout.cols) == (dims == 2), layout.path


@pytest.mark.slow
@pytest.mark.parametrize("unrolled", [False, True])
def test_members_generate_as_models_with_their_weights_do(unrolled, getkey):
    model = RWKV7(SMALL, unrolled)
    params = jax.tree.map(jnp.asarray, parity_rwkv.params_of(SMALL))
    rows = padded([[1, 2, 3], [4], [5, 6, 7, 8]])
    es = eggroll.EvolutionStrategy(population=6, sigma=0.1, strict=True)
    fn = lambda params, *rows: greedy(model, params, *rows, 12)
    tokens, generation = quick.jit(es.ask(fn))(params, getkey(), *rows)
    explicit = quick.jit(fn)
    for i in range(6):
        member = es.member(generation, params, i)
        np.testing.assert_array_equal(tokens[i], explicit(member, *rows))
    assert len({x.tobytes() for x in np.asarray(tokens)}) > 3  # members differ


def test_no_turn_of_a_population_copies_the_matrices_of_all_layers(params):
    def looped(params, token):
        turn = lambda carry: MODEL.decode(params, token, carry[1])
        start = (jnp.zeros((2, CONFIG.vocabulary)), MODEL.init_state(2))
        return jax.lax.while_loop(lambda carry: carry[0][0, 0] < 1, turn, start)[0]

    es = eggroll.EvolutionStrategy(population=4, sigma=0.1)
    traced = jax.make_jaxpr(es.ask(looped))(params, jax.random.key(0), jnp.ones(2, int))
    loop = next(e for e in jaxprs.equations(traced) if e.primitive.name == "while")
    state = (CONFIG.layers, 2, CONFIG.heads, CONFIG.head_size, CONFIG.head_size)
    whole = {
        e.primitive.name
        for e in jaxprs.equations(loop.params["body_jaxpr"])
        for v in e.invars
        if sorted(v.aval.shape) == sorted((4, *state))
    }
    assert {"dynamic_slice", "dynamic_update_slice"} <= whole
    assert not whole & {"gather", "scatter", "transpose", "reshape", "select_n"}
