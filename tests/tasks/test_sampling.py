import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxprs import floating_point

from eggroll import UserError
from tasks.language.networks import make
from tasks.language.sampling import sample


EGG = make("egg", layers=1, width=16, context=8, rounding="nearest")
KEY = jax.random.key(0)


def text(network, prompt=b"", **options):
    params = network.init(jax.random.key(1))
    return b"".join(sample(network, params, prompt, 100, KEY, **options))


@pytest.mark.parametrize(("temperature", "odds"), [(1.0, [2, 4, 1]), (0.5, [4, 16, 1])])
def test_integer_tokens_are_drawn_in_proportion_to_powers_of_two(temperature, odds):
    some = jnp.array([80, 96, 64], jnp.int8)
    logits = jnp.full(256, -127, jnp.int8).at[:3].set(some)
    keys = jax.random.split(KEY, 20_000)
    draw = lambda key: EGG.draw(key, logits, temperature)
    drawn = np.asarray(jax.jit(jax.vmap(draw))(keys))
    share = np.bincount(drawn, minlength=256)[:3] / len(keys)
    expected = np.array(odds) / sum(odds)
    error = (expected * (1 - expected) / len(keys)) ** 0.5
    # What is not among the three has a chance of 253 * 2^-12 at most.
    assert np.all(np.abs(share - expected) < 5 * error + 0.02)
    assert EGG.draw(KEY, logits, 0.0) == 1


def test_the_integer_model_writes_without_floats():
    params, state = EGG.init(KEY), EGG.initial_state()

    def write(key, params, state, token):
        state, logits = EGG.step(params, state, token)
        return state, EGG.draw(key, logits, 0.75)

    assert not floating_point(write, KEY, params, state, jnp.uint8(0))


@pytest.mark.parametrize("model", ["egg", "gru"])
def test_a_text_is_reproducible_and_depends_on_the_prompt(model):
    network = make(model, layers=1, width=16, context=8, rounding="nearest")
    assert text(network) == text(network)
    assert len(text(network)) == 100
    greedy = {text(network, prompt, temperature=0.0) for prompt in (b"a", b"b", b"c")}
    assert len(greedy) > 1


def test_a_prompt_is_read_as_a_document_from_its_start():
    params = EGG.init(jax.random.key(1))
    made = next(sample(EGG, params, b"xy", 1, KEY, temperature=0.0))
    state = EGG.initial_state()
    for byte in b"\0xy":
        state, logits = EGG.step(params, state, jnp.uint8(byte))
    assert made[0] == int(jnp.argmax(logits))


def test_a_model_without_a_state_is_refused():
    network = make("transformer", layers=1, width=16, context=8, rounding="nearest")
    with pytest.raises(UserError, match="use the model 'egg' or 'gru'"):
        text(network)
