import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.language import (
    RecurrentLanguageModel,
    TransformerLanguageModel,
    log_probabilities,
)


MODELS = {
    "gru": lambda: RecurrentLanguageModel(2, 16, 32, rngs=nnx.Rngs(0)),
    "transformer": lambda: TransformerLanguageModel(
        2, 16, 32, context=12, rngs=nnx.Rngs(0)
    ),
}
TOKENS = np.random.default_rng(0).integers(1, 32, 12).astype(np.uint8)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, marks=[pytest.mark.slow] if name == "gru" else [], id=name)
        for name, make in MODELS.items()
    ],
)
def test_no_logit_depends_on_a_later_token(make):
    model = make()
    changed = TOKENS.copy()
    changed[7] = changed[7] % 31 + 1
    read = jax.jit(lambda tokens: model(model.initial_state(), tokens)[1])
    before, after = np.asarray(read(TOKENS)), np.asarray(read(changed))
    np.testing.assert_allclose(before[:7], after[:7], atol=1e-6)
    assert np.all(np.any(np.abs(before[7:] - after[7:]) > 1e-6, axis=1))


def test_a_recurrent_model_reads_in_parts_what_it_reads_at_once():
    model = MODELS["gru"]()
    _, whole = model(model.initial_state(), jnp.asarray(TOKENS))
    state, first = model(model.initial_state(), jnp.asarray(TOKENS[:5]))
    _, second = model(state, jnp.asarray(TOKENS[5:]))
    np.testing.assert_allclose(jnp.concatenate([first, second]), whole, atol=1e-5)


def test_a_document_starts_from_nothing():
    model = MODELS["gru"]()
    tokens = jnp.array([0, 5, 6], jnp.uint8)
    _, fresh = model(model.initial_state(), tokens)
    _, other = model(model.initial_state() + 1, tokens)
    np.testing.assert_array_equal(fresh, other)


def test_log_probabilities_are_in_bits_and_sum_to_one():
    logits = jax.random.normal(jax.random.key(0), (1, 256))
    each = [log_probabilities(logits, jnp.array([i]))[0] for i in range(256)]
    assert float(jnp.sum(2.0 ** jnp.stack(each))) == pytest.approx(1, abs=1e-4)
    assert log_probabilities(jnp.zeros((1, 256)), jnp.array([7]))[0] == -8
