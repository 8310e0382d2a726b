import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from models.llm.config import TransformerConfig
from models.llm.generation import Sampling, generate, nucleus
from models.llm.scoring import log_likelihoods, score
from models.llm.transformer import Transformer


CONFIG = TransformerConfig(
    width=16,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=8,
    feedforward=24,
    vocabulary=23,
    context=64,
)
MODEL = Transformer(CONFIG)
LENGTHS = jnp.array([3, 6, 1, 4, 2, 6])
NEW = 12
WARM = Sampling(temperature=1.0, top_p=0.9)


@pytest.fixture(scope="module")
def params():
    # Loud, so that the next token follows from what was read, and not from the last.
    params = quick.jit(MODEL.init)(jax.random.key(0))
    layers = {k: 2 * x if x.ndim == 3 else x for k, x in params["layers"].items()}
    return params | {"embed": 0.1 * params["embed"], "layers": layers}


@pytest.fixture(scope="module")
def prompts():
    return jax.random.randint(jax.random.key(1), (6, 6), 0, CONFIG.vocabulary)


@pytest.fixture(scope="module")
def naive(params, prompts):
    """Greedy completions, each token from the logits of all before it."""
    of = quick.jit(lambda tokens: MODEL.head(params, MODEL.hidden(params, tokens)))
    rows = np.zeros((6, 6 + NEW), int)
    rows[:, :6] = prompts
    at, row = np.array(LENGTHS), np.arange(6)
    for _ in range(NEW):
        rows[row, at] = of(rows)[row, at - 1].argmax(axis=-1)
        at += 1
    return np.stack([rows[i, n : n + NEW] for i, n in enumerate(LENGTHS)])


@functools.partial(
    quick.jit, static_argnames=("new_tokens", "end_tokens", "sampling", "halvings")
)
def run(params, prompts, lengths=LENGTHS, **options):
    return generate(MODEL, params, prompts, lengths, **{"new_tokens": NEW} | options)


def cut(naive, ends):
    """What is left of completions when tokens end them, and how long they are."""
    is_end = np.isin(naive, ends)
    lengths = np.where(is_end.any(axis=1), is_end.argmax(axis=1) + 1, NEW)
    return np.where(np.arange(NEW) < lengths[:, None], naive, 0), lengths


def test_greedy_completions_are_those_of_reading_all_again(params, prompts, naive):
    found = run(params, prompts)
    assert len(np.unique(naive)) > 8
    np.testing.assert_array_equal(found.tokens, naive)
    np.testing.assert_array_equal(found.lengths, NEW)
    assert not found.ended.any()


@pytest.mark.parametrize("halvings", [0, 1, 2])
def test_any_end_token_ends_a_completion(params, prompts, naive, halvings):
    ends = tuple(map(int, naive[[0, 1, 2, 4], [2, 1, 0, 7]]))
    tokens, lengths = cut(naive, ends)
    assert len(set(lengths)) > 2
    found = run(params, prompts, end_tokens=ends, halvings=halvings)
    np.testing.assert_array_equal(found.tokens, tokens)
    np.testing.assert_array_equal(found.lengths, lengths)
    np.testing.assert_array_equal(found.ended, np.isin(naive, ends).any(axis=1))


def test_end_tokens_are_those_of_the_model_unless_others_are_given(params, prompts):
    token = int(run(params, prompts).tokens[0, 0])
    ending = Transformer(dataclasses.replace(CONFIG, end_tokens=(token,)))
    ask = lambda **options: quick.jit(
        lambda params: generate(
            ending, params, prompts, LENGTHS, new_tokens=1, **options
        )
    )(params)
    assert ask().ended[0]
    assert not ask(end_tokens=()).ended.any()


def test_one_token_is_the_first_of_many(params, prompts, naive):
    one = run(params, prompts, new_tokens=1)
    np.testing.assert_array_equal(one.tokens, naive[:, :1])


def test_generation_stops_when_all_rows_have_ended(params, prompts, naive):
    turns = []

    class Counted(Transformer):
        def decode(self, params, token, state):
            jax.debug.callback(lambda: turns.append(1))
            return super().decode(params, token, state)

    ends = sorted({*naive[:, 2]})
    _, lengths = cut(naive, ends)
    members = jax.tree.map(lambda x: jnp.stack([x, x]), params)
    ask = lambda params: generate(
        Counted(CONFIG), params, prompts, LENGTHS, new_tokens=NEW, end_tokens=ends
    )
    jax.block_until_ready(quick.jit(ask)(params))
    jax.effects_barrier()
    assert len(turns) == lengths.max() - 1 == 2
    # All members stop together: nothing of their states is selected at any turn.
    turned = str(jax.make_jaxpr(jax.vmap(ask))(members))
    caches = [x for x in turned.splitlines() if "select_n" in x and "2,2,6,1" in x]
    assert not caches


def test_what_is_drawn_depends_on_key_and_row_alone(params, prompts, naive):
    drawn = run(params, prompts, sampling=WARM, key=jax.random.key(3))
    again = run(params, prompts, sampling=WARM, key=jax.random.key(3))
    other = run(params, prompts, sampling=WARM, key=jax.random.key(4))
    fewer = run(params, prompts[:4], LENGTHS[:4], sampling=WARM, key=jax.random.key(3))
    np.testing.assert_array_equal(drawn.tokens, again.tokens)
    np.testing.assert_array_equal(drawn.tokens[:4], fewer.tokens)
    assert (drawn.tokens != other.tokens).mean() > 0.3
    assert (drawn.tokens != naive).mean() > 0.3


@pytest.mark.slow
def test_gathering_rows_changes_nothing_that_is_drawn(params, prompts):
    options = dict(sampling=WARM, key=jax.random.key(5), end_tokens=(0, 1, 2, 3, 4))
    plain, gathered = (run(params, prompts, halvings=n, **options) for n in (0, 1))
    assert len(set(plain.lengths.tolist())) > 2
    jax.tree.map(np.testing.assert_array_equal, plain, gathered)


@pytest.mark.slow
def test_tokens_are_drawn_as_often_as_they_are_likely(params, prompts):
    rows = 4000
    one = jnp.repeat(prompts[:1, :3], rows, axis=0)
    sampling = Sampling(temperature=2.0)
    found = run(
        params,
        one,
        jnp.full(rows, 3),
        new_tokens=1,
        sampling=sampling,
        key=jax.random.key(6),
    )
    logits = MODEL.head(params, MODEL.hidden(params, one[:1]))[0, -1]
    p = np.asarray(jax.nn.softmax(logits / 2.0))
    share = np.bincount(found.tokens[:, 0], minlength=CONFIG.vocabulary) / rows
    assert (np.abs(share - p) <= 5 * np.sqrt(p * (1 - p) / rows)).all()


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.5, 0.9, 0.999])
def test_a_nucleus_is_the_fewest_tokens_of_that_mass(top_p):
    logits = 3 * np.random.default_rng(0).standard_normal((50, 40), np.float32)
    p = np.asarray(jax.nn.softmax(logits, axis=-1))
    order = np.argsort(-p, axis=-1)
    mass = np.cumsum(np.take_along_axis(p, order, axis=-1), axis=-1)
    count = (mass < top_p).sum(axis=-1) + 1
    expected = np.zeros_like(p, bool)
    for row, n in enumerate(count):
        expected[row, order[row, :n]] = True
    np.testing.assert_array_equal(nucleus(jnp.asarray(logits), top_p), expected)


def test_a_nucleus_keeps_what_is_equally_likely():
    np.testing.assert_array_equal(nucleus(jnp.zeros((1, 5)), 0.3), [[True] * 5])
    certain = jnp.array([[0.0, 200.0, 0.0]])
    np.testing.assert_array_equal(nucleus(certain, 0.3), [[False, True, False]])


def test_scores_are_sums_of_log_likelihoods(params, prompts):
    @quick.jit
    def expected(params):
        logits = MODEL.head(params, MODEL.hidden(params, prompts))
        all_of = jax.nn.log_softmax(logits[:, :-1] / 0.7)
        return jnp.take_along_axis(all_of, prompts[:, 1:, None], axis=-1)[..., 0]

    each = np.asarray(expected(params))
    starts, lengths = np.array([1, 2, 3, 1, 6, 4]), np.array([6, 5, 4, 2, 6, 6])
    for chunk in (1, 2, 64):
        options = dict(temperature=0.7, chunk=chunk)
        likelihoods = functools.partial(log_likelihoods, MODEL, **options)
        found = quick.jit(likelihoods)(params, prompts)
        np.testing.assert_allclose(found[:, 1:], each, atol=2e-5)
        np.testing.assert_array_equal(found[:, 0], 0)
        scored = quick.jit(functools.partial(score, MODEL, **options))
        total = scored(params, prompts, starts, lengths)
        for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            wanted = each[i, start - 1 : length - 1].sum()
            np.testing.assert_allclose(total[i], wanted, atol=5e-5)


def test_no_more_logits_are_made_at_once_than_a_chunk_has(params):
    tokens = jnp.zeros((2, 65), jnp.int32)
    likelihoods = lambda params: log_likelihoods(MODEL, params, tokens, chunk=16)
    text = str(jax.make_jaxpr(likelihoods)(params))
    assert "f32[2,16,23]" in text
    assert "f32[2,64,23]" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"new_tokens": 0}, "completions of 0 do not fit"),
        ({"new_tokens": 59}, "of 6 tokens and completions of 59 do not fit .* of 64"),
        ({"sampling": WARM}, "needs a random key"),
        ({"sampling": Sampling(-1.0)}, "temperature >= 0"),
        ({"sampling": Sampling(1.0, 0.0)}, "0 < top_p <= 1"),
    ],
)
def test_what_cannot_be_generated_is_refused(params, prompts, options, message):
    with pytest.raises(ValueError, match=message):
        run(params, prompts, **options)
