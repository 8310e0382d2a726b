import dataclasses
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from eggroll import check_task
from tasks.control import Control, Discrete, Environment
from tasks.control.adapters import make
from tasks.control.normalisation import moments, normalise


needs_gymnax = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("gymnax"), reason="needs gymnax"
)


@dataclasses.dataclass(frozen=True)
class Line(Environment):
    """Walk on the integers; the reward is the place. One place may be poisoned."""

    poison: int | None = None
    name = "line"
    action_space = Discrete(2)
    observation_shape = (2,)
    step_limit = 5

    def reset(self, key):
        place = jax.random.randint(key, (), -50, 50)
        return place, self._see(place)

    def step(self, state, action, key):
        place = state + 2 * action - 1
        reward = jnp.float32(place)
        if self.poison is not None:
            reward = jnp.where(place > self.poison, jnp.nan, reward)
        return place, self._see(place), reward, jnp.bool(False)

    def _see(self, place):
        return jnp.stack([jnp.float32(place), jnp.float32(1)])


def line(**options) -> Control:
    poison = options.pop("poison", None)
    settings = {"hidden": (4,), "evaluation_episodes": 8, **options}
    return Control(environment=Line(poison), **settings)


def evaluate(task, params, step=0, state=None, key=None, carry=()):
    state = task.initial_state() if state is None else state
    key = jax.random.key(3) if key is None else key
    data = task.batch(state, step, jax.random.key(4))
    return jax.jit(task.evaluate)(params, data, carry, key)


def test_control_meets_the_task_protocol():
    assert next(iter(check_task(line()))) == "return"
    check_task(line(normalise_observations=True, seeds="member", episodes=2))


def test_fitness_is_the_mean_return_of_the_episodes(getkey):
    task = line(episodes=3)
    params = task.init(getkey())
    right = jax.tree.map(jnp.zeros_like, params)
    right["head"]["bias"] = jnp.array([0.0, 1.0])
    fitness, _, aux = evaluate(task, right, key=(key := getkey()))
    starts = [
        jax.random.randint(
            jax.random.fold_in(jax.random.fold_in(key, e), 0), (), -50, 50
        )
        for e in range(3)
    ]
    # From x: x+1, ..., x+5.
    np.testing.assert_allclose(
        fitness, np.mean([5 * x + 15 for x in starts]), rtol=1e-6
    )
    assert aux["steps"] == 15


@pytest.mark.parametrize("seeds", ["pair", "population", "member"])
def test_seeds_say_who_meets_the_same_episodes(seeds, getkey):
    task = line(seeds=seeds)
    params = jax.tree.map(jnp.zeros_like, task.init(jax.random.key(0)))
    data = task.batch(task.initial_state(), 0, getkey())
    carry = task.initial_carry(4)
    keys = jnp.repeat(jax.random.split(getkey(), 2), 2)  # one for both of a pair
    axes = (None, None, 0 if seeds == "member" else None, 0)
    run = jax.jit(jax.vmap(lambda *args: task.evaluate(*args)[0], axes))
    fitness = run(params, data, carry, keys)
    different = {"pair": 2, "population": 1, "member": 4}[seeds]
    assert len(set(fitness.tolist())) == different


def test_step_limit_rises_linearly():
    task = line(max_steps=4, max_steps_start=2, max_steps_ramp=10)
    params = task.init(jax.random.key(0))
    steps = [int(evaluate(task, params, step)[2]["steps"]) for step in (0, 5, 10, 99)]
    assert steps == [2, 3, 4, 4]


def test_a_step_limit_beyond_the_environments_own_is_that_one():
    assert line(max_steps=50).step_limit_at(0) == 5
    rising = line(max_steps=50, max_steps_start=1, max_steps_ramp=4)
    assert [int(rising.step_limit_at(step)) for step in (0, 2, 4)] == [1, 3, 5]


def test_validation_is_deterministic_and_reports_mean_and_standard_error(getkey):
    task, key = line(evaluation_episodes=64), getkey()
    right = jax.tree.map(jnp.zeros_like, task.init(key))
    right["head"]["bias"] = jnp.array([0.0, 1.0])
    metrics = task.validate(right, task.initial_state(), key)
    assert metrics == task.validate(right, task.initial_state(), key)
    # Starts are uniform on -50 ... 49: mean -0.5; returns 5 x + 15, so sd 5 * 28.9.
    assert metrics["return_sem"] == pytest.approx(5 * 28.87 / 8, rel=0.4)
    assert abs(metrics["return"] - 12.5) < 5 * metrics["return_sem"]
    assert metrics["episode_length"] == 5
    assert metrics["terminated"] == 0


def test_one_episode_has_no_standard_error(getkey):
    task = line(evaluation_episodes=1)
    metrics = task.validate(task.init(getkey()), task.initial_state(), getkey())
    assert "return_sem" not in metrics
    assert np.all(np.isfinite(list(metrics.values())))


def test_a_nan_reward_voids_its_member_alone(getkey):
    task = line(poison=40)
    params = task.init(getkey())
    keys = jax.random.split(getkey(), 64)
    fitness = jax.vmap(lambda key: evaluate(task, params, key=key)[0])(keys)
    assert 0 < np.sum(np.isnan(fitness)) < 32


def test_validation_counts_the_episodes_that_a_nan_has_spoilt(getkey):
    task = line(poison=40, evaluation_episodes=64)
    metrics = task.validate(task.init(getkey()), task.initial_state(), getkey())
    assert np.isfinite(metrics["return"])
    assert 0 < metrics["non_finite_episodes"] < 32


def test_observation_statistics_are_those_of_all_members_and_generations(getkey):
    task = line(normalise_observations=True, episodes=2)
    params, state, seen = task.init(getkey()), task.initial_state(), []
    for _ in range(2):
        keys = jax.random.split(getkey(), 6)
        run = lambda key, state=state: evaluate(task, params, state=state, key=key)
        _, _, aux = jax.vmap(run)(keys)
        seen.append(aux["observed"])
        state = task.update_state(state, aux)
    assert state.count == 2 * 6 * 2 * 5
    counts = np.concatenate([one.count for one in seen])
    means = np.concatenate([one.mean for one in seen])
    np.testing.assert_allclose(
        state.mean, np.average(means, axis=0, weights=counts), rtol=1e-5
    )
    np.testing.assert_allclose(state.deviations[1], 0, atol=1e-6)  # never varies


def test_a_policy_sees_normalised_observations(getkey):
    plain, scaled = line(), line(normalise_observations=True)
    params = plain.init(getkey())
    state = moments(jnp.array([[-20.0, 1.0], [30.0, 1.0]]), jnp.ones(2, bool))
    seen = []
    for task in (plain, scaled):
        network = dataclasses.replace(task.policy)
        spy = lambda p, x, m, network=network: (
            jax.debug.callback(lambda x: seen.append(np.array(x)), x),
            network(p, x, m),
        )[1]
        vars(task)["policy"] = spy
        spy.memory = ()
        evaluate(task, params, state=state)
        jax.effects_barrier()
    expected = [normalise(jnp.array(x), state) for x in seen[:1]]
    np.testing.assert_allclose(seen[5], expected[0], rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class WhoAmI(Environment):
    """Agent i of three must take action i; it sees the time and its own number."""

    name = "who"
    agents = 3
    action_space = Discrete(3)
    observation_shape = (3, 4)
    step_limit = 4

    def reset(self, key):
        return jnp.int32(0), self._see(0)

    def step(self, state, action, key):
        right = jnp.mean(action == jnp.arange(3))
        return state + 1, self._see(state + 1), right, jnp.bool_(False)

    def _see(self, time):
        return jnp.concatenate([jnp.full((3, 1), 1.0 * time), jnp.eye(3)], axis=1)


def test_a_team_tells_its_agents_apart_by_their_normalised_observations(getkey):
    """What a policy that is blind to the numbers could get is 4/3."""
    task = Control(environment=WhoAmI(), hidden=(), normalise_observations=True)
    # The policy to be found: the number that is shown is the action.
    params = jax.tree.map(jnp.zeros_like, task.init(getkey()))
    params["head"]["kernel"] = jnp.eye(4)[:, 1:]
    seen = jnp.stack([WhoAmI()._see(time) for time in range(4)])
    state = moments(seen, jnp.ones(4, bool))
    assert evaluate(task, params, state=state)[0] == 4


class Averager(nnx.Module):
    """A user's own recurrent network: outputs the mean of what it has seen."""

    def __init__(self, inputs, outputs, *, hidden, activation, rngs):
        self.head = nnx.Linear(inputs, outputs, rngs=rngs)

    def initial_memory(self):
        return jnp.zeros(()), jnp.zeros(2)

    def __call__(self, x, memory):
        count, total = memory[0] + 1, memory[1] + x
        return self.head(total / count), (count, total)


def test_a_networks_own_class_and_memory(monkeypatch, getkey):
    monkeypatch.setitem(sys.modules, "my_networks", sys.modules[__name__])
    task = line(network="my_networks:Averager")
    params = task.init(getkey())
    _, memory = task.policy(params, jnp.ones(2), task.policy.memory)
    outputs, _ = task.policy(params, 3 * jnp.ones(2), memory)
    head = params["head"]
    np.testing.assert_allclose(outputs, 2 * head["kernel"].sum(0), rtol=1e-5)
    assert np.isfinite(evaluate(task, params)[0])


@needs_gymnax
@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1"])
def test_classic_control_runs_from_the_name_alone(name):
    task = Control(
        environment=f"gymnax/{name}",
        environment_options={"max_steps_in_episode": 20},
        hidden=(4,),
        evaluation_episodes=4,
    )
    metrics = check_task(task)
    assert np.isfinite(metrics["return"])
    assert metrics["episode_length"] <= 20
    assert "solved" in task.reference


@needs_gymnax
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"environment": "gymnax/CartPol-v1"}, "Did you mean 'CartPole-v1'"),
        ({"environment": "gymnax/cartpole-v1"}, "Did you mean 'CartPole-v1'"),
        ({"environment": "gymnacks/CartPole-v1"}, "Did you mean 'gymnax'"),
        ({"environment": "CartPol-v1"}, "library/name or package.module:Class"),
        ({"environment": "CartPol-v1"}, "Did you mean 'CartPole-v1'"),
        ({"environment": "tasks.control:Nothing"}, "Nothing found at"),
        ({"environment": "no_such_package.env:Mine"}, "Nothing found at"),
        ({"environment_options": {"gravitiy": 1}}, "Did you mean 'gravity'"),
        ({"episodes": 0}, "episodes: expected at least 1"),
        ({"seeds": "pairs"}, "seeds must be"),
        ({"squash": "sigmoid"}, "squash"),
        ({"network": "mpl"}, "Expected network"),
        ({"activation": "tanhh"}, "Did you mean 'tanh'"),
        ({"hidden": (0,)}, "hidden: expected at least 1"),
    ],
)
def test_impossible_settings_are_refused_at_construction(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Control(**settings)


def test_a_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", None)
    with pytest.raises(ValueError, match=re.escape("pip install 'eggroll-jax[rl]'")):
        make("gymnax/CartPole-v1")
