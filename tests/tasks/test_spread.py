"""How far actions and episodes spread, and what an algorithm has of its own."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eggroll import training
from eggroll.config import load, resolve
from tasks.control import Box, Control, Discrete, Environment
from tasks.control.ppo import PPOSettings


@dataclasses.dataclass(frozen=True)
class Still(Environment):
    """One step; the reward is minus the square of the action."""

    name = "still"
    action_space = Box((-np.inf,), (np.inf,))
    observation_shape = (2,)
    step_limit = 1

    def reset(self, key):
        return (), jax.random.normal(key, (2,))

    def step(self, state, action, key):
        return state, jnp.zeros(2), -(action[0] ** 2), jnp.bool(True)


def still(**options) -> Control:
    settings = {"hidden": (4,), "deterministic": False, "log_std": "free", **options}
    return Control(environment=Still(), **settings)


def test_a_free_log_std_is_the_spread_of_the_actions_in_every_state(getkey):
    """With a mean of 0 the expected return is minus the variance."""
    task = still(episodes=4000)
    params = jax.tree.map(jnp.zeros_like, task.init(getkey()))
    assert params["free"].shape == (1,)
    key, data = getkey(), task.batch(task.initial_state(), 0, getkey())

    @jax.jit
    @jax.vmap
    def mean(log_std):
        return task.evaluate({**params, "free": log_std}, data, (), key)[0]

    log_std = jnp.array([[-1.0], [0.0], [0.5]])
    variance = np.exp(2 * log_std[:, 0])
    error = variance * (2 / 4000) ** 0.5  # of a mean square
    assert np.all(np.abs(mean(log_std) + variance) < 5 * error)


def step(task, *, algorithm="eggroll"):
    """The first of a run."""
    settings = {
        "task": {"class": "tasks.control:Control"},
        "algorithm": algorithm,
        "strategy": {"population": 256, "sigma": 0.3},
        "optimizer": {"name": "sgd", "learning_rate": 0.5},
        "budget": {"generations": 1},
    }
    made, key = training.find(task, resolve(settings)), jax.random.key(0)
    carry, seen = task.initial_carry(256), task.initial_state()
    params = task.init(key)
    state = training.State(params, made.init(params), jnp.int32(0), key, seen, carry)
    return made.step(state, task.batch(seen, 0, key))


@pytest.mark.slow
def test_a_free_log_std_evolves_with_the_network():
    """What is drawn costs its variance, so that the spread shrinks."""
    state, _ = step(still(episodes=8))
    assert state.params["free"][0] < -0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"log_std": "free"}, {"deterministic": True}],
    ids=["of the policy", "beside it"],
)
def test_ppo_learns_a_free_spread_with_the_rest(options):
    """It starts at 1, an entropy of log(2 pi e) / 2."""
    ppo = PPOSettings(workers=4, steps=8, epochs=1, minibatches=1)
    state, metrics = step(still(ppo=ppo, **options), algorithm="ppo")
    assert metrics["policy/entropy"] == pytest.approx(np.log(2 * np.pi * np.e) / 2)
    kept = state.opt_state.log_std
    learnt = state.params["free"] if kept is None else kept
    assert learnt[0] != 0


@pytest.mark.parametrize(
    ("options", "free", "head"),
    [({}, 1, 1), ({"log_std": "head"}, 0, 2), ({"deterministic": True}, 0, 1)],
)
def test_log_std_is_free_only_where_it_is_wished_and_drawn_from(options, free, head):
    task = still(**options)
    params = jax.eval_shape(task.init, jax.random.key(0))
    assert task.policy.free == free
    assert (params["model"] if free else params)["head"]["bias"].size == head
    with pytest.raises(ValueError, match="log_std must be 'head' or 'free'"):
        still(log_std="none")


@dataclasses.dataclass(frozen=True)
class Luck(Environment):
    """An episode lasts one step or, as chance will have it, five."""

    name = "luck"
    action_space = Discrete(2)
    observation_shape = (1,)
    step_limit = 5

    def reset(self, key):
        return jax.random.bernoulli(key), jnp.zeros(1)

    def step(self, state, action, key):
        return state, jnp.zeros(1), jnp.float32(1), state


def test_utilisation_is_the_share_of_steps_of_episodes_under_way(getkey):
    """The members step on until the last episode of them all has ended: five steps."""
    task = Control(environment=Luck(), hidden=(4,), episodes=3)
    params, data = task.init(getkey()), task.batch(task.initial_state(), 0, getkey())
    both = jax.jit(jax.vmap(lambda key: task.evaluate(params, data, (), key)))
    _, _, aux = both(jax.random.split(getkey()))
    assert 3 <= min(aux["steps"]) < max(aux["steps"]) <= 15
    np.testing.assert_allclose(aux["metrics"]["utilisation"], aux["steps"] / 15, 1e-6)


def test_ppo_has_a_network_and_a_rate_of_its_own_in_one_config(tmp_path):
    """The example of the documentation."""
    docs = (Path(__file__).parent.parent.parent / "docs/control.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", docs, re.DOTALL)
    (path := tmp_path / "ant.yaml").write_text(example + "budget: {generations: 1}\n")
    evolved, learnt = load(path), load(path, [("algorithm", "ppo")])
    theirs = [one.task.options.get("network", "mlp") for one in (evolved, learnt)]
    assert theirs == ["mlp", "paper"]
    assert evolved.task.options["hidden"] == (32,)
    assert learnt.task.options["hidden"] == (256,) * 3
    assert learnt.optimizer.learning_rate.start == 0.0003
    assert not learnt.task.options["ppo"].normalise_rewards
    baseline = load(path, [("algorithm", "evosax")])
    assert baseline.task.options["evosax"].name == "Sep_CMA_ES"
    assert baseline.task.options["hidden"] == (32,)
