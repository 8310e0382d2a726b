"""PPO of environments on the host: as in JAX, but for where they are stepped."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eggroll import runs, training
from eggroll.config import load, resolve
from eggroll.runs.checkpoint import digests
from eggroll.training import State, find, key_for
from tasks.control import Control, Discrete, Environment
from tasks.control.host import HostControl
from tasks.control.pool import Pool
from tasks.control.ppo import PPOSettings


pytest.importorskip("gymnasium")
CONFIGS = Path(__file__).parent.parent.parent / "configs/rl"
SMALL = PPOSettings(workers=4, steps=12, epochs=2, minibatches=2)
NEVER = 99
FEW = {"hidden": (4,), "activation": "tanh", "normalise_observations": True}


@dataclasses.dataclass(frozen=True)
class Tally(Environment):
    """`host_environments.Tally` in JAX."""

    blind: int = NEVER
    name = "tally"
    action_space = Discrete(2)
    observation_shape = (2,)
    step_limit = 5

    def reset(self, key):
        return (jnp.int32(0), jnp.int32(0)), self._see(0, 0)

    def step(self, state, action, key):
        time, count = state
        count = count + (action == time % 2)
        seen = self._see(time + 1, count)
        return (time + 1, count), seen, count.astype(float), count == 3

    def _see(self, time, count):
        shown = jnp.where(time == self.blind, jnp.nan, 1.0 * time)
        return jnp.stack([shown, 1.0 * count])


def on_host(environment, processes=0, ppo=SMALL, **options):
    return HostControl(
        environment=f"host_environments:{environment}",
        environment_options=options,
        processes=processes,
        ppo=ppo,
        **FEW,
    )


def learning(task, rate=0.01):
    """How a task is learnt, and the state before."""
    settings = {
        "task": {"class": "tasks.control:Control"},
        "algorithm": "ppo",
        "optimizer": {"name": "adam", "learning_rate": rate},
        "budget": {"generations": 1},
    }
    algorithm = find(task, resolve(settings))
    key = jax.random.key(0)
    params = task.init(key)
    zero, seen = jnp.int32(0), task.initial_state()
    return algorithm.step, State(params, algorithm.init(params), zero, key, seen, ())


def after(step, state, updates):
    for _ in range(updates):
        state, metrics = step(state, ())
    return state, metrics


ALSO = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize("blind", [NEVER, ALSO(0), ALSO(2), ALSO(3), ALSO(5)])
def test_an_update_on_the_host_is_that_in_jax(blind):
    """Without chance, and with episodes that go on from one update to the next."""
    in_jax = Control(environment=Tally(blind), ppo=SMALL, **FEW)
    tasks = on_host("Tally-v0", blind=blind), in_jax
    (ours, told), (theirs, said) = (after(*learning(task), 2) for task in tasks)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, (ours.params, ours.task), (theirs.params, theirs.task))
    kept, same = ours.opt_state, theirs.opt_state
    for part in ("critic", "opt_state", "returns"):
        jax.tree.map(close, getattr(kept, part), getattr(same, part))
    np.testing.assert_array_equal(kept.workers.time, same.workers.time)
    close(kept.workers.total, same.workers.total)
    assert told.keys() == said.keys()
    for name, value in said.items():
        close(told[name], value)
    assert (told["fitness/nonfinite"] > 0) == (blind < 5)


def test_who_lost_sight_of_the_episodes_lives_through_them_again():
    step, state = learning(on_host("Walk-v0"))
    once, _ = step(state, ())
    assert np.any(once.opt_state.workers.time > 0)
    goes_on, told = step(once, ())
    again, said = step(once, ())  # whose environments are elsewhere by now
    assert digests(goes_on) == digests(again)
    assert told == said


@pytest.mark.parametrize("pair", [True, ALSO(False)])
def test_what_a_state_forbids_is_never_done(pair):
    """Where one thing is allowed at a time, all that is done is right."""
    step, state = learning(on_host("Gates-v0", pair=pair))
    _, metrics = step(state, ())
    assert metrics["fitness/mean"] == 5
    assert metrics["policy/entropy"] == 0


@pytest.mark.slow
def test_nothing_is_learnt_where_nothing_may_be_done():
    """All begin at time 0, 1 or 2; void is what begins at time 2, that step alone."""
    step, state = learning(on_host("Gates-v0", walls=2))
    _, metrics = step(state, ())
    assert 0 < metrics["fitness/nonfinite"] < 1
    assert np.isnan(metrics["fitness/mean"])  # no episode gets past it


@pytest.mark.slow
def test_workers_change_nothing():
    tasks = (on_host("Walk-v0", processes) for processes in (0, 3))
    alone, shared = (after(*learning(task), 2)[0] for task in tasks)
    assert digests(alone) == digests(shared)


def test_episodes_begin_where_they_shall_and_go_on_elsewhere():
    pool, every = Pool("host_environments:Tally-v0", {}, 3, 0), np.ones(3, bool)
    seeds = np.zeros(3, np.uint32)
    pool.reset(seeds)
    pool.step(np.array([0, 1, 0]), every)
    seen = pool.reset(seeds, np.array([False, False, True])).observation
    np.testing.assert_array_equal(seen, [[1, 1], [1, 0], [0, 0]])
    seen = pool.step(np.array([1, 1, 0]), every).observation
    np.testing.assert_array_equal(seen, [[2, 2], [2, 1], [1, 1]])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["discrete", "binary"])
def test_choices_made_at_once_are_learnt(kind):
    task = on_host("Locks-v0", ppo=PPOSettings(workers=16, steps=12), kind=kind)
    state, metrics = after(*learning(task, rate=0.03), 30)
    assert metrics["fitness/mean"] > 15  # of 18; chance has 6 or 9
    assert task.validate(state.params, state.task, key_for(state.key, 3))["return"] > 17


@pytest.mark.slow
def test_cartpole_is_learnt(tmp_path):
    changes = {"algorithm": "ppo", "output": str(tmp_path), "generations": "40"}
    run = runs.create(load(CONFIGS / "gymnasium_cartpole.yaml", changes.items()))
    outcome = training.train(training.prepare(run.config), run)
    assert outcome.validation["return"] >= 400


@pytest.mark.slow
def test_numbers_between_bounds_are_learnt(tmp_path):
    changes = {
        "algorithm": "ppo",
        "output": str(tmp_path),
        "task.environment": "Pendulum-v1",
        "task.normalise_observations": "true",
        "task.ppo": "{workers: 16, steps: 64, epochs: 8, minibatches: 8}",
        "task.ppo.discount": "0.9",
        "evaluate_every": "10",
        "budget.target": "-400",  # a random policy gets -1200
        "generations": "100",
    }
    run = runs.create(load(CONFIGS / "gymnasium_cartpole.yaml", changes.items()))
    outcome = training.train(training.prepare(run.config), run)
    assert outcome.validation["return"] >= -400
