"""A mistake gives one clear error that names the fix, before anything is computed."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eggroll
from eggroll import EvolutionStrategy


KEY = jax.random.key(0)
PARAMS = {"w": jnp.ones((4, 3))}
X = jnp.ones((5, 4))


def strategy(**settings):
    return EvolutionStrategy(**{"population": 8, "sigma": 0.1, **settings})


# --- Settings: refused when they are made

SETTINGS = [
    (
        {"population": 7},
        r"even with antithetic pairs, got 7; use 8 or antith",
    ),
    ({"population": 0}, r"population must be positive.*got 0; use 2"),
    ({"population": -3, "antithetic": False}, r"positive.*got -3; use 1"),
    ({"population": 8.0}, r"population must be a whole number, got 8.0"),
    ({"rank": 0}, r"rank must be at least 1, got 0; rank=None is full rank"),
    ({"rank": 1.5}, r"rank must be a whole number, got 1.5"),
    ({"sigma": 0.0}, r"sigma must be positive and finite, got 0.0"),
    ({"sigma": -0.1}, r"sigma must be positive and finite, got -0.1"),
    ({"sigma": float("nan")}, r"sigma must be positive and finite, got nan"),
    ({"noise": "int8_gaussian"}, r"one of rademacher, gaussian, got 'int8_gaussian"),
    ({"noise": "uniform"}, r"noise must be one of rademacher, gaussian, got 'uniform'"),
    ({"noise_reuse": 0}, r"noise_reuse must be at least 1, got 0"),
    (
        {"shaping": eggroll.shaping.pair_sign, "antithetic": False},
        r"compares the two members of a pair.*antithetic=True",
    ),
    ({"chunk_size": 0}, r"chunk_size must be at least 1, got 0"),
    ({"memory_bytes": 0}, r"memory_bytes must be at least 1, got 0"),
    ({"rules": {"w": "frozen"}}, r"rule for 'w' must be.*eggroll.frozen.*got 'frozen'"),
    ({"rules": {"w": eggroll.full_rank}}, r"rule for 'w' must be.*full_rank\(\)"),
]


@pytest.mark.parametrize(
    ("settings", "message"), SETTINGS, ids=[message for _, message in SETTINGS]
)
def test_a_setting_that_cannot_work_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        strategy(**settings)


# --- Functions and arguments: refused when traced, before a member is evaluated


def refused(message, fn, *args, params=PARAMS, has_aux=False, in_axes=None, **settings):
    """Asserts that an error says `message`, and that nothing has been evaluated."""
    evaluated = []

    def watched(params, *args):
        jax.debug.callback(lambda: evaluated.append(1))
        return fn(params, *args)

    es = strategy(**settings)
    run = es.value_and_grad(fitness=watched, has_aux=has_aux, in_axes=in_axes)
    with pytest.raises(ValueError, match=message):
        run(params, KEY, *args)
    jax.effects_barrier()
    assert not evaluated


FITNESS = {
    "a vector": (
        lambda p, x: x[0] @ p["w"],
        r"must be one number.*got shape \(3,\).*\.mean\(\)",
    ),
    "a matrix": (lambda p, x: x @ p["w"], r"must be one number.*got shape \(5, 3\)"),
    "a pair": (
        lambda p, x: (jnp.sum(x @ p["w"]), x),
        r"must be one number.*got a tuple.*has_aux=True",
    ),
    "nothing": (lambda p, x: None, r"must be one number.*got a NoneType"),
}


@pytest.mark.parametrize("case", FITNESS.values(), ids=FITNESS.keys())
def test_a_fitness_that_is_no_number_is_refused(case):
    fn, message = case
    refused(message, fn, X)


def test_has_aux_needs_a_pair():
    message = r"has_aux=True.*return \(number, aux\)"
    refused(message, lambda p, x: jnp.sum(x @ p["w"]), X, has_aux=True)
    three = lambda p, x: (jnp.sum(x @ p["w"]), 1.0, 2.0)
    refused(message, three, X, has_aux=True)


def test_parameters_without_a_floating_leaf_are_refused():
    message = r"nothing to evolve.*floating-point leaf.*int32"
    whole = {"w": jnp.ones((4, 3), int)}
    refused(message, lambda p: jnp.sum(p["w"] * 1.0), params=whole)
    refused(r"nothing to evolve.*none", lambda p: jnp.float32(0), params={})


def test_a_rule_that_matches_no_leaf_is_refused():
    message = r"'\*\*/kernel' matches no leaf; there are: w"
    rules = {"**/kernel": eggroll.frozen}
    refused(message, lambda p, x: jnp.sum(x @ p["w"]), X, rules=rules)


IN_AXES = {
    "rows that do not divide": (
        0,
        X,
        r"divides the population of 8; got shape \(5",
    ),
    "a number": (0, jnp.float32(1), r"divides the population of 8; got shape \(\)"),
    "another axis": (1, X, r"None and 0 only, got 1"),
    "too many": ((None, None), X, r"an entry for each of the 1 arguments"),
    "another tree": (({"a": 0},), X, r"an entry for each of the 1 arguments"),
}


@pytest.mark.parametrize("case", IN_AXES.values(), ids=IN_AXES.keys())
def test_in_axes_that_do_not_fit_are_refused(case):
    in_axes, x, message = case
    refused(message, lambda p, x: jnp.sum(p["w"]), x, in_axes=in_axes)


def test_either_fitness_or_loss():
    with pytest.raises(ValueError, match=r"either a loss or fitness=.*not both"):
        strategy().value_and_grad(jnp.sum, fitness=jnp.sum)


def test_shaping_that_does_not_fit_is_refused():
    score = lambda p, x: jnp.sum(x @ p["w"])
    for shaping, message in [
        (eggroll.shaping.groups(3), "groups of 3 and 8 members"),
        (lambda fitness: fitness[:4], r"one weight a member: expected shape \(8,\)"),
    ]:
        run = strategy(shaping=shaping).value_and_grad(fitness=score)
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(run, PARAMS, KEY, X)


# --- Telling


def test_fitness_for_another_population_is_refused():
    es = strategy()
    _, generation = jax.eval_shape(es.ask(lambda p: p["w"]), PARAMS, KEY)
    for wrong in (np.ones(7), np.ones((8, 2)), 1.0):
        with pytest.raises(ValueError, match=r"expected shape \(8,\), got"):
            jax.eval_shape(es.gradient, generation, wrong)


def test_a_module_without_arrays_is_refused():
    with pytest.raises(ValueError, match="nothing to evolve"):
        strategy().ask(lambda m, x: x)(eqx.nn.Lambda(jnp.tanh), KEY, X)
