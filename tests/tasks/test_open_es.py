"""Evosax's Open_ES beside ours."""

import re
import sys
from pathlib import Path

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eggroll
from eggroll import runs, training
from eggroll.config import load, resolve
from eggroll.training import Purpose, State, key_for
from tasks import open_es
from tasks.control import Control


algorithms = pytest.importorskip("evosax.algorithms")
shapings = pytest.importorskip("evosax.core.fitness_shaping")


class Bowl(eggroll.Task):
    """The fitness is minus the squared distance; members may fail, or remember."""

    data_axes = 0
    broken: tuple[int, ...] = ()

    def init(self, key):
        return {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)}

    def initial_carry(self, population):
        return jnp.arange(population)

    def batch(self, state, step, key):
        return jnp.array([[1.0, -2.0], [1.0, -2.0]])  # a row a half of the population

    def evaluate(self, params, data, carry, key):
        away = jnp.sum((params["w"] - data) ** 2) + jnp.sum((params["b"] - data) ** 2)
        fails = jnp.isin(carry, jnp.array(self.broken))
        return jnp.where(fails, jnp.nan, -away), carry, {}

    def validate(self, params, state, key):
        return {"fitness": 0.0}


def config(optimizer="adam", **strategy):
    return resolve(
        {
            "task": {"class": "tasks.control:Control"},
            "strategy": {"population": 32, "sigma": 0.1, **strategy},
            "optimizer": {"name": optimizer, "learning_rate": 0.1},
            "budget": {"generations": 1},
        }
    )


def run(task, config, steps):
    algorithm = open_es.algorithm(task, config)
    key, params = jax.random.key(0), task.init(jax.random.key(0))
    carry = task.initial_carry(algorithm.members)
    state = State(params, algorithm.init(params), jnp.int32(0), key, (), carry)
    for step in range(steps):
        state, metrics = algorithm.step(state, task.batch((), step, key))
    return state, metrics


@pytest.mark.parametrize("shaping", open_es.SHAPINGS)
def test_our_estimate_from_the_same_members_and_fitness_is_the_same(shaping, getkey):
    params = {"w": jax.random.normal(getkey(), (5, 3)), "b": jnp.ones(3)}
    ours = eggroll.EvolutionStrategy(
        population=16,
        sigma=0.2,
        rank=None,
        noise="gaussian",
        shaping=getattr(eggroll.shaping, shaping),
    )
    members, generation = ours.ask(lambda params: params)(params, getkey())
    fitness = jax.random.normal(getkey(), (16,))
    theirs = algorithms.Open_ES(
        population_size=16,
        solution=params,
        optimizer=optax.sgd(1.0),
        std_schedule=optax.constant_schedule(0.2),
        fitness_shaping_fn=getattr(shapings, open_es.SHAPINGS[shaping]),
    )
    state = theirs.init(getkey(), params, theirs.default_params)
    state, _ = theirs.tell(getkey(), members, -fitness, state, theirs.default_params)
    grads = ours.gradient(generation, fitness)
    expected = jax.tree.map(jnp.subtract, params, theirs.get_mean(state))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        grads,
        expected,
    )


@pytest.mark.parametrize(
    "strategy",
    [
        {},
        {"antithetic": False, "shaping": "centred_rank", "chunk_size": 12},
        {"sigma": {"start": 0.2, "end": 0.05, "steps": 20, "kind": "linear"}},
    ],
    ids=["pairs", "alone, in chunks", "scheduled"],
)
def test_it_finds_the_bottom_of_a_bowl(strategy):
    state, metrics = run(Bowl(), config(**strategy), 100)
    np.testing.assert_allclose(state.params["b"], [1.0, -2.0], atol=0.1)
    np.testing.assert_allclose(state.params["w"], [[1.0, -2.0]] * 3, atol=0.1)
    assert metrics["samples"] == 32
    np.testing.assert_array_equal(state.carry, np.arange(32))


def test_chunks_change_nothing():
    whole, _ = run(Bowl(), config(), 2)
    parts, _ = run(Bowl(), config(chunk_size=10), 2)
    np.testing.assert_allclose(whole.params["w"], parts.params["w"], rtol=1e-4)


def test_failed_members_and_their_partners_cancel():
    """All pairs but the first fail: that one alone says where to go."""
    task, settings = Bowl(), config(shaping="none", optimizer="sgd")
    task.broken = tuple(range(3, 32, 2))
    state, metrics = run(task, settings, 1)
    assert metrics["fitness/nonfinite"] == 15 / 32
    learner = open_es._Learner(task, settings)
    key, _ = jax.random.split(key_for(jax.random.key(0), Purpose.NOISE, 0))
    start = learner.init(task.init(key))
    members, _ = learner.es.ask(key, start, learner.options)
    flat = lambda tree: jax.flatten_util.ravel_pytree(tree)[0]
    first, moved = flat(jax.tree.map(lambda x: x[0], members)), flat(state.params)
    cosine = first @ moved / jnp.linalg.norm(first) / jnp.linalg.norm(moved)
    assert abs(cosine) == pytest.approx(1, abs=1e-4)


def test_a_step_is_compiled_once():
    task = Bowl()
    algorithm = open_es.algorithm(task, config())
    params, carry = task.init(jax.random.key(0)), task.initial_carry(32)
    kept = algorithm.init(params)
    state = State(params, kept, jnp.int32(0), jax.random.key(0), (), carry)
    for step in range(3):
        state, _ = algorithm.step(state, task.batch((), step, state.key))
    assert algorithm.step._cache_size() == 1  # pyright: ignore[reportFunctionMemberAccess]


def test_it_is_one_of_the_algorithms_of_control():
    assert Control.algorithms["evosax"] is open_es.algorithm


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ({"rules": {"**/b": "frozen"}}, "strategy.rules to be none"),
        ({"noise_reuse": 2}, "strategy.noise_reuse to be 1"),
        ({"shaping": "pair_sign"}, "strategy.shaping to be one of none, zscore"),
        ({"population": 31, "antithetic": False}, "population to be an even number"),
    ],
    ids=["rules", "reuse", "shaping", "population"],
)
def test_what_evosax_cannot_do_is_refused(strategy, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        open_es.algorithm(Bowl(), config(**strategy))


def test_a_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "evosax.algorithms", None)
    with pytest.raises(
        ValueError, match=re.escape("pip install 'eggroll-jax[compare]'")
    ):
        open_es.algorithm(Bowl(), config())


@pytest.mark.slow
def test_cartpole_is_learnt_and_resumed(tmp_path):
    path = Path(__file__).parent.parent.parent / "configs/rl/cartpole.yaml"
    changes = {"algorithm": "evosax", "output": str(tmp_path), "generations": "2"}
    run = runs.create(load(path, changes.items()))
    training.train(training.prepare(run.config), run)
    run = runs.change(run, [("generations", "30")])
    outcome = training.train(training.prepare(run.config), run)
    assert outcome.validation["return"] >= 490
