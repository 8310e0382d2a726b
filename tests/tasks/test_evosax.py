"""Evosax's strategies, and its Open_ES beside ours."""

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
from eggroll.config import Choice, load, resolve
from eggroll.training import Purpose, State, key_for
from tasks import evosax
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


class Named(Bowl):
    """The same, with a strategy of its own."""

    def __init__(self, name, **options):
        self.evosax = Choice(name=name, options=options)


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
    algorithm = evosax.algorithm(task, config)
    key, params = jax.random.key(0), task.init(jax.random.key(0))
    carry = task.initial_carry(algorithm.members)
    state = State(params, algorithm.init(params), jnp.int32(0), key, (), carry)
    for step in range(steps):
        state, metrics = algorithm.step(state, task.batch((), step, key))
    return state, metrics


SCHEDULED = {"sigma": {"start": 0.2, "end": 0.05, "steps": 20, "kind": "linear"}}


@pytest.mark.parametrize("shaping", evosax.SHAPINGS)
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
        fitness_shaping_fn=getattr(shapings, evosax.SHAPINGS[shaping]),
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
        SCHEDULED,
    ],
    ids=["pairs", "alone, in chunks", "scheduled"],
)
def test_it_finds_the_bottom_of_a_bowl(strategy):
    state, metrics = run(Bowl(), config(**strategy), 100)
    np.testing.assert_allclose(state.params["b"], [1.0, -2.0], atol=0.1)
    np.testing.assert_allclose(state.params["w"], [[1.0, -2.0]] * 3, atol=0.1)
    assert metrics["samples"] == 32
    np.testing.assert_array_equal(state.carry, np.arange(32))


STRATEGIES = ["CMA_ES", "Sep_CMA_ES", "SNES", "xNES", "PGPE", "SimpleES"]


@pytest.mark.parametrize("name", STRATEGIES)
def test_others_find_the_bottom_too(name):
    """PGPE alone has a rate of its own to learn by, that of the config."""
    state, metrics = run(Named(name), config(sigma=0.3), 150)
    np.testing.assert_allclose(state.params["b"], [1.0, -2.0], atol=0.15)
    np.testing.assert_allclose(state.params["w"], [[1.0, -2.0]] * 3, atol=0.15)
    assert metrics["samples"] == 32  # a step costs the same with all of them


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_starts_at_the_parameters_with_the_config_s_sigma(name, getkey):
    task = Named(name)
    learner = evosax._Learner(task, config(sigma=0.3, population=512))
    params = {"w": 5 + jnp.zeros((3, 2)), "b": jnp.zeros(2)}
    members, _ = learner.es.ask(getkey(), learner.init(params), learner.options)
    error = 0.3 / np.sqrt(2 * 512)  # of a standard deviation
    np.testing.assert_allclose(members["w"].std(0), 0.3, atol=5 * error)
    np.testing.assert_allclose(members["w"].mean(0), 5, atol=5 * 0.3 / 512**0.5)
    is_paired = np.allclose(members["b"][:256], -members["b"][256:])
    assert is_paired == learner.has_pairs


@pytest.mark.parametrize("name", ["Sep_CMA_ES", "SNES"])
def test_a_failed_member_comes_last_where_members_are_ranked(name):
    task, settings = Named(name), config()
    task.broken = (0, 5)
    learner = evosax._Learner(task, settings)
    fitness = jnp.arange(32.0).at[jnp.array([0, 5])].set(jnp.nan)
    np.testing.assert_array_equal(learner._mended(fitness)[jnp.array([0, 5])], 1)
    state, _ = run(task, settings, 3)
    assert np.isfinite(state.params["w"]).all()


def test_options_of_a_strategy_are_its_own():
    learner = evosax._Learner(Named("PGPE", std_lr=0.5, std_init=2.0), config())
    assert learner.options.std_lr == 0.5
    assert learner.options.std_init == 2
    settings = {"task": {"class": "tasks.control:Control", "evosax": "Sep_CMA_ES"}}
    found = resolve({**settings, "budget": {"generations": 1}})
    assert found.task.options["evosax"] == Choice(name="Sep_CMA_ES")


@pytest.mark.parametrize(
    ("task", "strategy", "message"),
    [
        (Named("Sep_CMAES"), {}, "did you mean 'Sep_CMA_ES'?"),
        (Named("DifferentialEvolution"), {}, "that moves a mean"),
        (Named("PGPE", rate=1), {}, "has no option 'rate'; it has: std_init, std_lr"),
        (Named("SNES"), SCHEDULED, "one number, which SNES adapts"),
    ],
    ids=["misspelt", "no mean", "option", "schedule"],
)
def test_what_a_strategy_cannot_do_is_refused(task, strategy, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        evosax.algorithm(task, config(**strategy))


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
    learner = evosax._Learner(task, settings)
    key, _ = jax.random.split(key_for(jax.random.key(0), Purpose.NOISE, 0))
    start = learner.init(task.init(key))
    members, _ = learner.es.ask(key, start, learner.options)
    flat = lambda tree: jax.flatten_util.ravel_pytree(tree)[0]
    first, moved = flat(jax.tree.map(lambda x: x[0], members)), flat(state.params)
    cosine = first @ moved / jnp.linalg.norm(first) / jnp.linalg.norm(moved)
    assert abs(cosine) == pytest.approx(1, abs=1e-4)


def test_a_step_is_compiled_once():
    task = Bowl()
    algorithm = evosax.algorithm(task, config())
    params, carry = task.init(jax.random.key(0)), task.initial_carry(32)
    kept = algorithm.init(params)
    state = State(params, kept, jnp.int32(0), jax.random.key(0), (), carry)
    for step in range(3):
        state, _ = algorithm.step(state, task.batch((), step, state.key))
    assert algorithm.step._cache_size() == 1


def test_it_is_one_of_the_algorithms_of_control():
    assert Control.algorithms["evosax"] is evosax.algorithm


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
        evosax.algorithm(Bowl(), config(**strategy))


def test_a_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "evosax.algorithms", None)
    with pytest.raises(
        ValueError, match=re.escape("pip install 'eggroll-jax[compare]'")
    ):
        evosax.algorithm(Bowl(), config())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "hidden"), [("Open_ES", "[64, 64]"), ("Sep_CMA_ES", "[8]")]
)
def test_cartpole_is_learnt_and_resumed(name, hidden, tmp_path):
    path = Path(__file__).parent.parent.parent / "configs/rl/cartpole.yaml"
    changes = {"algorithm": "evosax", "evosax": name, "hidden": hidden}
    changes |= {"output": str(tmp_path), "generations": "2"}
    run = runs.create(load(path, changes.items()))
    training.train(training.prepare(run.config), run)
    run = runs.change(run, [("generations", "40")])
    outcome = training.train(training.prepare(run.config), run)
    assert outcome.validation["return"] >= 490
