import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_egg as reference
from jaxprs import floating_point

from models.egg import Egg, log_probability
from models.integer_math import Rounding


MODES: dict[str, Rounding] = {"default": "nearest", "paper": "floor"}
each_mode = pytest.mark.parametrize("mode", MODES)


def random_model(mode, seed, scale, *, layers=2, width=16, vocabulary=256):
    """A model whose leaves, biases and norms included, are all random.

    At a scale of 16 it looks like an initial one; at 60 most of it saturates.
    """
    model = Egg(layers, width, vocabulary, MODES[mode])
    rng = np.random.default_rng(seed)

    def leaf(shape):
        draw = np.rint(scale * rng.standard_normal(shape.shape))
        return jnp.asarray(np.clip(draw, -127, 127), jnp.int8)

    params = jax.tree.map(leaf, jax.eval_shape(model.init, jax.random.key(0)))
    tokens = rng.integers(0, vocabulary, 24).astype(np.uint16)
    tokens[[0, 9]] = 0  # documents start
    state = rng.integers(-127, 128, (layers, width))
    return model, params, state, jnp.asarray(tokens)


@functools.cache
def compiled(model):
    def run(params, state, tokens):
        def step(carry, token):
            return model.step(params, carry, token)

        total, after = model.log_likelihood(params, state, tokens)
        return total, after, jax.lax.scan(step, state, tokens[:-1])[1]

    return jax.jit(run)


@each_mode
@pytest.mark.parametrize("scale", [2, 16, 60])
@pytest.mark.parametrize("seed", range(3))
def test_forward_and_loss_agree_with_numpy_bit_for_bit(mode, scale, seed):
    model, params, state, tokens = random_model(mode, seed, scale)
    rows = tuple(jnp.asarray(state, jnp.int8))
    total, after, logits = compiled(model)(params, rows, tokens)
    expected = reference.forward(params, state, np.asarray(tokens), mode)
    np.testing.assert_array_equal(np.stack(after), expected[0])
    assert total == expected[1]
    np.testing.assert_array_equal(logits, expected[2])


@each_mode
def test_a_model_of_zeros_is_uniform_and_divides_nothing_by_zero(mode):
    model, params, _, tokens = random_model(mode, 0, 0)
    rows = model.initial_state()
    total, _, logits = compiled(model)(params, rows, tokens)
    assert not np.any(logits)
    assert -total == 16 * 8 * (len(tokens) - 1)
    assert (
        total == reference.forward(params, np.stack(rows), np.asarray(tokens), mode)[1]
    )


@each_mode
def test_rows_whose_mean_rounds_to_nothing_are_divided_by_one(mode):
    model, params, state, tokens = random_model(mode, 3, 16)
    ones = np.eye(model.width, dtype=np.int8)
    params["embedding"] = jnp.asarray(ones[np.arange(256) % model.width])
    params["layers"][0]["norm_gru"] = jnp.full(model.width, 16, jnp.int8)
    rows = tuple(jnp.asarray(state, jnp.int8))
    total, after, _ = compiled(model)(params, rows, tokens)
    expected = reference.forward(params, state, np.asarray(tokens), mode)
    np.testing.assert_array_equal(np.stack(after), expected[0])
    assert total == expected[1]


@each_mode
def test_other_sizes_agree_with_numpy(mode):
    sizes = dict(layers=1, width=64, vocabulary=7)
    model, params, state, tokens = random_model(mode, 5, 16, **sizes)
    rows = tuple(jnp.asarray(state, jnp.int8))
    total, after, logits = compiled(model)(params, rows, tokens)
    expected = reference.forward(params, state, np.asarray(tokens), mode)
    np.testing.assert_array_equal(np.stack(after), expected[0])
    np.testing.assert_array_equal(logits, expected[2])
    assert total == expected[1]


def test_nothing_in_the_forward_pass_or_the_loss_is_a_float():
    model, params, state, tokens = random_model("default", 0, 16)
    rows = tuple(jnp.asarray(state, jnp.int8))
    for rounding in MODES.values():
        changed = dataclasses.replace(model, rounding=rounding)
        assert not floating_point(changed.log_likelihood, params, rows, tokens)


def test_a_separator_resets_the_state():
    model, params, state, _ = random_model("default", 1, 16)
    rows = tuple(jnp.asarray(state, jnp.int8))
    token = jnp.uint8(0)
    fresh = model.step(params, model.initial_state(), token)
    for one, other in zip(
        jax.tree.leaves(model.step(params, rows, token)),
        jax.tree.leaves(fresh),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_reading_in_two_parts_equals_reading_at_once():
    model, params, state, tokens = random_model("default", 2, 16)
    rows = tuple(jnp.asarray(state, jnp.int8))
    first, between = model.log_likelihood(params, rows, tokens[:11])
    second, after = model.log_likelihood(params, between, tokens[10:])
    whole, expected = model.log_likelihood(params, rows, tokens)
    assert first + second == whole
    np.testing.assert_array_equal(np.stack(after), np.stack(expected))


def test_parameter_count_is_the_published_one():
    shapes = jax.eval_shape(Egg(6, 256).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 4_856_064
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("int8")}


def test_large_vocabularies_keep_the_loss_within_int32():
    logits = jnp.full(2048, 127, jnp.int8)
    total = 2048 * int(reference.EXP2[255])
    assert total < 2**31
    expected = 255 - reference.log2_table_entry(total)
    assert log_probability(logits, jnp.asarray(2047)) == expected


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(width=32), "take 16 or 64"),
        (dict(width=1), "power of 4; got 1"),
        (dict(layers=0), "at least one layer"),
        (dict(vocabulary=257, rounding="floor"), "2 to 256 tokens"),
        (dict(vocabulary=2049), "2 to 2048 tokens"),
        (dict(rounding="up"), '"nearest" or "floor"'),
    ],
)
def test_impossible_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        Egg(**sizes)
