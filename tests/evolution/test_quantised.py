"""Leaves of whole numbers evolve as the floats that they are converted to."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

import eggroll


L, V, D = 3, 11, 6
KEY = jax.random.key(3)
RULES = {
    "embed": eggroll.low_rank(2, 5.0, quantised=True),
    "layers": eggroll.low_rank(1, 3.0, quantised=True),
    "gain": eggroll.full_rank(2.0, quantised=True),
    "scale": eggroll.frozen,
}
ES = eggroll.EvolutionStrategy(
    population=6, sigma=0.5, noise="gaussian", rules=RULES, strict=True
)
FITNESS = jnp.arange(6.0) ** 2


def params() -> dict[str, Any]:
    draw = lambda seed, *shape: jax.random.randint(
        jax.random.key(seed), shape, -127, 128, jnp.int8
    )
    return {
        "embed": draw(0, V, D),
        "gain": draw(1, D),
        "layers": draw(2, L, D, D),
        "scale": jnp.linspace(0.001, 0.002, D),
    }


def apply(params, tokens):
    """Looks rows up, loops over layers, and is tied: through views of each kind."""
    wide = lambda q: q.astype(jnp.float32)
    x = wide(params["embed"][tokens]) * 0.01 + wide(params["gain"])

    def layer(x, q):
        return jnp.tanh(x @ wide(q) * params["scale"]), None

    x, _ = jax.lax.scan(layer, x, params["layers"])
    return x @ wide(params["embed"].T)


TOKENS = jnp.array([1, 0, 7])
ask = quick.jit(ES.ask(apply))


@pytest.mark.slow
def test_a_population_is_that_of_the_same_numbers_as_floats():
    whole, floats = params(), jax.tree.map(lambda x: x.astype(jnp.float32), params())
    (ours, generation), (theirs, other) = (ask(p, KEY, TOKENS) for p in (whole, floats))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-3)
    assert np.std(ours, axis=0).min() > 0.1
    grads, wanted = (ES.gradient(g, FITNESS) for g in (generation, other))
    jax.tree.map(np.testing.assert_array_equal, grads, wanted)
    assert {x.dtype for x in jax.tree.leaves(grads)} == {jnp.dtype(jnp.float32)}


def test_a_member_is_whole_numbers_plus_noise_in_floats():
    whole = params()
    outputs, generation = ask(whole, KEY, TOKENS)
    for i in (0, 1, 5):
        member = ES.member(generation, whole, i)
        assert member["layers"].dtype == jnp.float32
        np.testing.assert_allclose(
            outputs[i], apply(member, TOKENS), rtol=1e-4, atol=1e-2
        )
    first, second = (ES.member(generation, whole, i) for i in (0, 1))
    for name in ("embed", "layers", "gain"):
        np.testing.assert_allclose(
            (first[name] + second[name]) / 2, whole[name], atol=1e-4
        )


def test_sigma_and_gradient_are_in_steps_of_the_whole_numbers():
    """W = q s: noise of sigma / s is sigma's on W, and the gradient s times W's."""
    step, whole = 0.25, {"q": params()["layers"][0]}
    of = lambda rule: eggroll.EvolutionStrategy(
        population=64, sigma=0.1, rules={"q": rule}
    )
    ours, theirs = (
        of(eggroll.low_rank(sigma_scale=1 / step, quantised=True)),
        of(eggroll.low_rank()),
    )
    x = jnp.linspace(-1, 1, D)
    score = lambda p, unit: jnp.sum(jnp.sin(x @ p["q"].astype(jnp.float32) * unit))
    (a, ours_asked), (b, theirs_asked) = (
        quick.jit(es.ask(score))(p, KEY, unit)
        for es, p, unit in (
            (ours, whole, step),
            (theirs, {"q": whole["q"].astype(jnp.float32) * step}, 1.0),
        )
    )
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    grad, wanted = ours.gradient(ours_asked, b), theirs.gradient(theirs_asked, b)
    np.testing.assert_allclose(grad["q"], step * wanted["q"], rtol=1e-4, atol=1e-6)


def test_without_such_a_rule_whole_numbers_stay():
    whole = {**params(), "scale": jnp.ones(D)}
    es = eggroll.EvolutionStrategy(
        population=4, sigma=0.1, rules={"layers": eggroll.low_rank(1)}
    )
    _, generation = jax.eval_shape(es.ask(apply), whole, KEY, TOKENS)
    frozen = {x.path: x.is_frozen for x in generation.layouts}
    assert frozen == {"embed": True, "gain": True, "layers": True, "scale": False}
    assert not any(eggroll.trainable(whole, es.rules)[k] for k in ("embed", "layers"))


def test_they_are_trainable_where_a_rule_says_so():
    assert eggroll.trainable(params(), RULES) == {
        "embed": True,
        "gain": True,
        "layers": True,
        "scale": False,
    }


def test_coverage_shows_them_as_matrices():
    table = eggroll.coverage(apply, params(), TOKENS, rules=RULES)
    assert table["layers"].layout.cols == (2,)
    assert table["layers"].layout.batch == (0,)
    assert table["embed"].layout.rank == 2
    assert not table.written_out


@pytest.mark.parametrize(
    "function",
    [
        lambda q, x: jnp.sum(q * 2),
        lambda q, x: jnp.sum(-q),
        lambda q, x: jnp.max(q),
        lambda q, x: jnp.sum(x.astype(jnp.int8) @ q),
        lambda q, x: jnp.sum(q.astype(jnp.int32) @ q.T.astype(jnp.int32)),
        lambda q, x: q,
    ],
)
def test_computing_with_them_as_whole_numbers_is_refused(function):
    es = eggroll.EvolutionStrategy(
        population=4, sigma=0.1, rules={"*": eggroll.low_rank(quantised=True)}
    )
    run = es.ask(lambda params, x: function(params["q"], x))
    with pytest.raises(ValueError, match=r"q, int8 of shape .* convert it"):
        run({"q": params()["layers"][0]}, KEY, jnp.ones(D))
