"""A generation carries what its noise needs, and refuses other strategies."""

import dataclasses
import functools
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eggroll
from eggroll import EvolutionStrategy, IntegerStrategy


KEY = jax.random.key(0)
X = jnp.ones(5)
FLOAT = EvolutionStrategy(population=8, sigma=0.1)
INTEGER = IntegerStrategy(population=8)
PARAMS = {
    EvolutionStrategy: {"w": jnp.ones((5, 4)), "b": jnp.ones(4)},
    IntegerStrategy: {"w": jnp.ones((5, 4), jnp.int8), "b": jnp.ones(4, jnp.int8)},
}
FITNESS = np.arange(8.0)
OTHERS = {
    "noise": (FLOAT, {"noise": "gaussian"}),
    "noise_reuse": (FLOAT, {"noise_reuse": 4}),
    "population": (FLOAT, {"population": 16}),
    "antithetic": (FLOAT, {"antithetic": False}),
    "sigma": (FLOAT, {"sigma": 0.2}),
    "sigma, a schedule": (FLOAT, {"sigma": lambda step: 0.1}),
    "integer noise": (INTEGER, {"noise": "gaussian", "weighting": "sign"}),
    "integer reuse": (INTEGER, {"noise_reuse": 4}),
    "integer population": (INTEGER, {"population": 16}),
    "sigma_shift": (INTEGER, {"sigma_shift": 5}),
    "rounding": (INTEGER, {"rounding": "floor"}),
}
each_strategy = pytest.mark.parametrize("es", [FLOAT, INTEGER], ids=["float", "int"])


def apply(params, x):
    return jnp.asarray(x, params["w"].dtype) @ params["w"] + params["b"]


def ask(es, **options):
    return es.ask(apply)(PARAMS[type(es)], KEY, X, **options)[1]


def tell(es, generation, fitness=FITNESS):
    """What is learnt, as NumPy arrays."""
    learn = es.gradient if isinstance(es, EvolutionStrategy) else es.votes
    return jax.tree.map(np.asarray, learn(generation, fitness))


@pytest.mark.parametrize(("es", "change"), OTHERS.values(), ids=OTHERS)
def test_the_generation_of_another_strategy_is_refused(es, change):
    other = dataclasses.replace(es, **change)
    name = next(iter(change))
    message = rf"asked for by another strategy: .*{name} .*where this strategy has"
    generation = ask(es)
    fitness = np.zeros(other.population)
    with pytest.raises(ValueError, match=message):
        tell(other, generation, fitness)
    with pytest.raises(ValueError, match=message):
        other.member(generation, PARAMS[type(es)], 0)
    with pytest.raises(ValueError, match=message):  # inside jit as outside
        jax.eval_shape(lambda g: tell(other, g, fitness), generation)


def test_a_generation_of_the_other_kind_of_strategy_is_refused():
    with pytest.raises(ValueError, match=r"another strategy: .*sigma_shift 4"):
        FLOAT.gradient(ask(INTEGER), FITNESS)
    with pytest.raises(ValueError, match=r"another strategy: .*antithetic True"):
        INTEGER.votes(ask(FLOAT), FITNESS)


@pytest.mark.parametrize(
    ("change", "rounding"),
    [
        ({"strict": True, "memory_bytes": 2**20, "rank": 3}, 0),
        # Sums of another order: on some processors the last bit differs.
        ({"chunk_size": 2}, 1e-6),
    ],
)
def test_what_does_not_touch_the_noise_may_differ(change, rounding):
    generation = ask(FLOAT)
    other = dataclasses.replace(FLOAT, **change)
    alike = functools.partial(np.testing.assert_allclose, rtol=rounding)
    jax.tree.map(alike, *(tell(es, generation) for es in (FLOAT, other)))


def test_sigma_of_a_schedule_is_that_of_the_step_asked_for():
    schedule = lambda step: 0.1 / (1 + step)
    es = dataclasses.replace(FLOAT, sigma=schedule)
    generation = ask(es, step=3)
    assert np.isclose(generation.sigma, 0.025)
    constant = dataclasses.replace(FLOAT, sigma=0.025)
    expected = tell(constant, ask(constant, step=3))
    jax.tree.map(np.testing.assert_allclose, tell(es, generation), expected)


@each_strategy
def test_it_can_be_sent_to_another_process_and_back(es):
    generation = ask(es, step=5)
    copied = pickle.loads(pickle.dumps(generation))
    jax.tree.map(np.testing.assert_array_equal, tell(es, copied), tell(es, generation))


def test_it_says_nothing_of_the_size_of_the_parameters():
    assert len(pickle.dumps(ask(FLOAT))) < 4000


def test_one_from_a_disk_is_refused_like_any_other(tmp_path):
    path = tmp_path / "generation"
    path.write_bytes(pickle.dumps(ask(FLOAT)))
    program = (
        "import pickle, pathlib, numpy, eggroll\n"
        f"generation = pickle.loads(pathlib.Path({str(path)!r}).read_bytes())\n"
        "right = eggroll.EvolutionStrategy(population=8, sigma=0.1)\n"
        "print(abs(right.gradient(generation, numpy.arange(8.))['w']).sum() > 0)\n"
        "wrong = eggroll.EvolutionStrategy(population=8, sigma=0.1, noise_reuse=2)\n"
        "wrong.gradient(generation, numpy.arange(8.))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "True"
    assert "noise_reuse 1 where this strategy has 2" in done.stderr.splitlines()[-1]


def test_one_from_a_release_with_other_noise_is_refused(monkeypatch):
    generation = ask(FLOAT)
    monkeypatch.setattr(eggroll.evolution.noise, "SCHEME", 99)
    with pytest.raises(ValueError, match="scheme 2 where this strategy has 99"):
        FLOAT.gradient(generation, FITNESS)


# --- Members by number


@each_strategy
@pytest.mark.parametrize(
    "index", [8, -1, np.int64(99), np.array(99), jnp.int32(8), 1.0, np.arange(2)]
)
def test_a_member_that_is_not_there_is_refused(es, index):
    with pytest.raises(ValueError, match="index must be a whole number from 0 to 7"):
        es.member(ask(es), PARAMS[type(es)], index)


@each_strategy
@pytest.mark.parametrize("index", [7, np.int64(7), np.array(7), jnp.uint8(7)])
def test_a_member_has_a_number_of_any_integer_type(es, index):
    params = PARAMS[type(es)]
    jax.tree.map(
        np.testing.assert_array_equal,
        es.member(ask(es), params, index),
        es.member(ask(es), params, 7),
    )


@each_strategy
def test_a_member_of_other_parameters_is_refused(es):
    params = PARAMS[type(es)]
    for other in ({"w": params["w"]}, {**params, "w": params["w"].T}, {}):
        with pytest.raises(ValueError, match="parameters like those the generation"):
            es.member(ask(es), other, 0)


# --- Strategies on floats and on integers behave alike


@each_strategy
def test_fitness_may_be_a_list(es):
    generation = ask(es)
    jax.tree.map(
        np.testing.assert_array_equal,
        tell(es, generation, FITNESS.tolist()),
        tell(es, generation, FITNESS),
    )


@each_strategy
@pytest.mark.parametrize("fitness", [np.ones(7), np.ones((8, 2)), 1.0])
def test_fitness_of_another_population_is_refused(es, fitness):
    with pytest.raises(
        ValueError, match=r"one fitness a member: expected shape \(8,\)"
    ):
        tell(es, ask(es), fitness)


@each_strategy
def test_a_function_with_a_key_gets_one_for_each_pair(es):
    draw = lambda params, key: jax.random.uniform(key) + 0 * jnp.sum(params["b"])
    drawn = np.asarray(es.ask(draw)(PARAMS[type(es)], KEY)[0])
    np.testing.assert_array_equal(drawn[0::2], drawn[1::2])
    assert len(set(drawn.tolist())) == 4


SETTINGS = {
    "population must be a whole number, got 8.0": {"population": 8.0},
    "population must be positive, and even": {"population": 7},
    "noise_reuse must be at least 1, got 0": {"noise_reuse": 0},
    "chunk_size must be a whole number, got 1.5": {"chunk_size": 1.5},
    "memory_bytes must be at least 1, got -1": {"memory_bytes": -1},
    "rank must be a whole number, got 1.5": {"rank": 1.5},
    r"rule for 'w' must be.*eggroll\.frozen.*got 1": {"rules": {"w": 1}},
    "noise must be one of rademacher, gaussian.*got 'uniform'": {"noise": "uniform"},
}


@each_strategy
@pytest.mark.parametrize(("message", "settings"), SETTINGS.items(), ids=SETTINGS.keys())
def test_the_same_mistakes_are_refused_in_the_same_words(es, message, settings):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(es, **settings)


@each_strategy
def test_a_rule_that_matches_no_leaf_is_refused(es):
    es = dataclasses.replace(es, rules={"kernel": eggroll.frozen})
    with pytest.raises(ValueError, match="'kernel' matches no leaf; there are: b, w"):
        ask(es)


@pytest.mark.parametrize("weighting", ["difference", "sign"])
@pytest.mark.parametrize("where", [np.asarray, jnp.float32], ids=["host", "device"])
def test_votes_do_not_depend_on_the_size_of_fitness(weighting, where):
    es = dataclasses.replace(INTEGER, population=64, weighting=weighting)
    generation, fitness = ask(es), np.random.default_rng(0).normal(size=64)
    expected = tell(es, generation, where(fitness))
    assert np.any(expected["w"])
    sizes = [1e-300, 1e300] if where is np.asarray else []
    for size in (1e-30, 1e30, 1e38, *sizes):
        told = tell(es, generation, where(size * fitness))
        jax.tree.map(np.testing.assert_array_equal, told, expected)


@pytest.mark.parametrize("weighting", ["difference", "sign"])
def test_votes_keep_differences_beside_a_large_offset_of_the_host(weighting):
    es = dataclasses.replace(INTEGER, population=64, weighting=weighting)
    generation = ask(es)
    whole = np.round(100 * np.random.default_rng(0).normal(size=64))
    whole[5] = np.nan
    expected = tell(es, generation, whole)
    told = tell(es, generation, whole + 2.0**40)
    jax.tree.map(np.testing.assert_array_equal, told, expected)
