"""Gymnasium environments on the host, through ask and tell."""

import os
import re
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eggroll import check_task, runs, training
from eggroll.config import load, resolve
from eggroll.runs.checkpoint import digests
from eggroll.task import first_row
from eggroll.training import Purpose, key_for
from tasks.control.host import HostControl
from tasks.control.pool import Pool, play


gymnasium = pytest.importorskip("gymnasium")


def config(output, *, algorithm="eggroll", generations=4, **task):
    return resolve(
        {
            "task": {
                "class": "tasks.control.host:HostControl",
                "environment": "host_environments:Walk-v0",
                "hidden": [4],
                "processes": 0,
                "evaluation_episodes": 6,
                **task,
            },
            "algorithm": algorithm,
            "strategy": {"population": 8, "sigma": 0.5},
            "optimizer": {"name": "adam", "learning_rate": 0.05},
            "budget": {"generations": generations},
            "evaluate_every": 2,
            "checkpoint_every": 2,
            "mesh": {"devices": 1},
            "output": str(output),
            "name": "host",
        }
    )


def train(settings):
    run = runs.create(settings)
    return run, training.train(training.prepare(settings), run)


def a_step(settings):
    experiment = training.prepare(settings)
    state = training.initial_state(experiment)
    key = key_for(state.key, Purpose.BATCH, 0)
    data = experiment.task.batch(state.task, 0, key)
    return experiment.algorithm.step(state, data)


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1"])
@pytest.mark.parametrize("processes", [0, 2])
def test_returns_are_those_of_a_plain_loop_over_gymnasium(name, processes):
    """Same seeds, same policy of what is seen."""
    environment = gymnasium.make(name)
    is_discrete = isinstance(environment.action_space, gymnasium.spaces.Discrete)
    flatten = lambda seen: gymnasium.spaces.flatten(environment.observation_space, seen)

    def choose(seen):
        score = np.sin(7 * seen.astype(np.float32)).sum(axis=-1)
        return (score > 0) * 1 if is_discrete else np.float32(score)[..., None]

    seeds = np.arange(6, dtype=np.uint32).reshape(3, 2) * 7
    pool = Pool(name, {}, seeds.size + 3, processes)
    for _ in range(2):  # the second time, environments are used again
        played = play(pool, lambda seen, *_: choose(seen), seeds, 40)
    pool.close()
    for place, seed in np.ndenumerate(seeds):
        seen, _ = environment.reset(seed=int(seed))
        total, length, terminated, truncated = 0.0, 0, False, False
        while not (terminated or truncated or length == 40):
            seen, reward, terminated, truncated, _ = environment.step(
                choose(flatten(seen))
            )
            total, length = total + reward, length + 1
        assert played.returns[place] == total
        assert played.lengths[place] == length
        assert played.terminated[place] == terminated


def test_a_recurrent_policy_that_draws_its_actions_meets_the_task_protocol():
    task = HostControl(
        environment="host_environments:Walk-v0",
        evaluation_episodes=4,
        hidden=(4,),
        processes=0,
        network="gru",
        seeds="member",
        normalise_observations=True,
        deterministic=False,
        episodes=2,
    )
    assert check_task(task)["episode_length"] == 7


def test_validation_of_the_mean_policy_is_that_of_a_plain_loop():
    task = HostControl(hidden=(4,), processes=0, evaluation_episodes=4, max_steps=50)
    params, key = task.init(jax.random.key(1)), jax.random.key(2)
    returns = []
    for episode in range(4):
        start = jax.random.fold_in(jax.random.fold_in(key, episode), 0)
        environment = gymnasium.make("CartPole-v1")
        seen, _ = environment.reset(seed=int(jax.random.bits(start)))
        done, length = False, 0
        while not done and length < 50:
            outputs, _ = task.policy(params, seen, ())
            seen, _, terminated, truncated, _ = environment.step(int(outputs.argmax()))
            done, length = terminated or truncated, length + 1
        returns.append(length)
    metrics = task.validate(params, task.initial_state(), key)
    assert metrics["return"] == np.mean(returns)


@pytest.mark.slow
def test_workers_change_nothing(tmp_path):
    extra = {"normalise_observations": True, "episodes": 2}
    alone, _ = a_step(config(tmp_path, **extra))
    shared, metrics = a_step(config(tmp_path, **extra, processes=3))
    assert digests(alone) == digests(shared)
    assert metrics["samples"] == 8 * 2 * 7
    assert shared.task.count == 8 * 2 * 7


@pytest.mark.parametrize("seeds", ["pair", "population", "member"])
def test_seeds_say_who_meets_the_same_episodes(seeds, getkey):
    task = HostControl(environment="host_environments:Walk-v0", seeds=seeds)
    params, carry = task.init(getkey()), task.initial_carry(8)
    data = task.batch(task.initial_state(), 0, getkey())
    keys = jnp.repeat(jax.random.split(getkey(), 4), 2)  # one for both of a pair
    one = lambda carry, key: task.evaluate(
        params, first_row(data, task.data_axes), carry, key
    )
    given = jax.vmap(one)(carry, keys)[2]["seed"][:, 0]
    if seeds == "pair":
        np.testing.assert_array_equal(given[0::2], given[1::2])
    different = {"pair": 4, "population": 1, "member": 8}[seeds]
    assert len(set(given.tolist())) == different


def test_a_nan_reward_voids_its_member_alone(tmp_path):
    _, metrics = a_step(config(tmp_path, environment_options={"trouble": "nan"}))
    assert 0 < metrics["fitness/nonfinite"] < 1
    assert np.isfinite(metrics["fitness/mean"])


@pytest.mark.parametrize("trouble", ["blind at first", "blind", "blind at last"])
def test_an_episode_is_void_if_nan_would_have_to_be_acted_on(trouble):
    options, seeds = {"trouble": trouble}, np.arange(40, dtype=np.uint32)[:, None]
    pool = Pool("host_environments:Walk-v0", options, 40, 0)
    start = pool.reset(seeds[:, 0]).observation.copy()
    up = lambda observation, *_: np.zeros(observation.shape[:2], int)  # by 1
    played = play(pool, up, seeds, 7)
    if trouble == "blind at first":
        assert np.isnan(played.returns).all()
        np.testing.assert_array_equal(played.lengths, 0)
        return
    arrives = np.clip(10 - start, 1, 7).astype(int)
    comes, sees = start + 7 >= 10, start + 7 > 10  # whether it acts on what it sees
    sees = sees | (start >= 10)
    np.testing.assert_array_equal(played.lengths, arrives)
    last = trouble == "blind at last"
    np.testing.assert_array_equal(played.terminated, comes & last)
    np.testing.assert_array_equal(np.isnan(played.returns), sees & (not last))


@pytest.mark.parametrize("processes", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_what_a_state_forbids_is_never_done(tmp_path, processes):
    """One thing may be done at a time, and each right one is worth 1."""
    gates = {"environment": "host_environments:Gates-v0", "processes": processes}
    _, metrics = a_step(config(tmp_path, **gates))
    assert metrics["fitness/mean"] == metrics["fitness/best"] == 5


def test_an_episode_is_void_where_nothing_may_be_done():
    name, options = "host_environments:Gates-v0", {"walls": 4, "pair": True}
    seeds = np.arange(12, dtype=np.uint32)[:, None]
    pool = Pool(name, options, 12, 0, masked=(2, 3))
    start = pool.reset(seeds[:, 0]).observation.astype(int)
    allowed = lambda *given: np.stack(
        [given[3][..., :2].argmax(-1), given[3][..., 2:].argmax(-1)], axis=-1
    )
    played = play(pool, allowed, seeds, 5)
    np.testing.assert_array_equal(played.lengths, 4 - start)  # at time 4 stands a wall
    assert np.isnan(played.returns).all()
    assert np.all(play(pool, allowed, seeds, 1).returns == 1)


def test_a_mask_of_another_size_is_told(tmp_path):
    gates = {"environment": "host_environments:Gates-v0"}
    options = {"environment_options": {"flags": 3}}
    with pytest.raises(ValueError, match=r"action_mask'\]: expected 2 flags.*got 3"):
        a_step(config(tmp_path, **gates, **options))


@pytest.mark.slow
def test_a_resumed_run_equals_one_that_never_stopped_bit_for_bit(tmp_path):
    settings = {
        "algorithm": "openes",
        "normalise_observations": True,
        "deterministic": False,
    }
    _, outcome = train(config(tmp_path / "whole", **settings))
    run, _ = train(config(tmp_path / "part", **settings, generations=2))
    run = runs.change(run, [("generations", "4")])
    resumed = training.train(training.prepare(run.config), run)
    assert digests(resumed.state) == digests(outcome.state)


@pytest.mark.parametrize("processes", [0, 2])
def test_what_an_environment_raises_is_told_with_its_traceback(tmp_path, processes):
    trouble = {"environment_options": {"trouble": "raise"}, "processes": processes}
    message = r"Walk-v0: .* RuntimeError: the wind is too strong(.|\n)*in step"
    with pytest.raises(ValueError, match=message):
        a_step(config(tmp_path, **trouble))


def test_a_worker_that_dies_is_told(tmp_path):
    trouble = {"environment_options": {"trouble": "die"}, "processes": 2}
    with pytest.raises(ValueError, match=r"a worker process has died.*processes=0"):
        a_step(config(tmp_path, **trouble))


def test_workers_outlive_ctrl_c_and_end_with_their_pool():
    pool = Pool("CartPole-v1", {}, 4, 2)
    pool.reset(np.arange(4, dtype=np.uint32))
    processes = pool._vector.processes
    for process in processes:
        os.kill(process.pid, signal.SIGINT)
    first = pool.reset(np.arange(4, dtype=np.uint32)).observation
    assert first.shape == (4, 4)
    del pool
    assert not any(process.is_alive() for process in processes)


WALK = {"environment": "host_environments:Walk-v0"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"environment": "ALE/Pong-v5"}, "ale_py:ALE/Pong-v5"),
        (
            {**WALK, "environment_options": {"trouble": "still"}},
            "Walk-v0: actions: A Box",
        ),
        ({"environment": "CartPol-v1"}, "Did you mean 'CartPole-v1'"),
        ({"environment": "host_environments:Walc-v0"}, "Did you mean 'Walk-v0'"),
        ({"environment": "no_such_module:Walk-v0"}, "no_such_module"),
        ({"environment": "host_environments:Endless-v0"}, "set max_steps"),
        ({**WALK, "environment_options": {"wind": 1}}, "argument 'wind'"),
        ({**WALK, "environment_options": {"trouble": "tuple"}}, "MultiBinary or Box"),
        ({**WALK, "processes": -1}, "processes: expected at least 0, got -1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_settings_are_refused_at_construction(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        HostControl(**settings)


def test_max_steps_ends_what_has_no_limit_of_its_own():
    task = HostControl(
        environment="host_environments:Endless-v0",
        max_steps=3,
        evaluation_episodes=2,
        hidden=(4,),
        processes=0,
    )
    metrics = task.validate(task.init(jax.random.key(0)), None, jax.random.key(1))
    assert metrics["episode_length"] == 3
    assert metrics["terminated"] == 0


def test_a_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(
        ValueError, match=re.escape("pip install 'eggroll-jax[rl-host]'")
    ):
        HostControl()


@pytest.mark.slow
def test_cartpole_is_learnt(tmp_path):
    path = Path(__file__).parent.parent.parent / "configs/rl/gymnasium_cartpole.yaml"
    changes = {"seed": "1", "output": str(tmp_path), "generations": "30"}
    run = runs.create(load(path, changes.items()))
    outcome = training.train(training.prepare(run.config), run)
    assert outcome.validation["return"] >= 490
