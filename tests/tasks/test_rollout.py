import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.control.adapters import make
from tasks.control.environment import Environment
from tasks.control.rollout import has_choice, rollout
from tasks.control.spaces import Box, Discrete, MultiDiscrete, Space


gymnax = pytest.importorskip("gymnax")


@dataclasses.dataclass(frozen=True)
class Countdown(Environment):
    """Ends after as many steps as the action at its first step says, plus one."""

    name = "countdown"
    action_space = Discrete(10)
    observation_shape = (1,)
    step_limit: int = 8

    def reset(self, key):
        return {"left": -1}, jnp.zeros(1)

    def step(self, state, action, key):
        left = jnp.where(state["left"] < 0, action, state["left"] - 1)
        reward = 1.0 + jnp.where(left < 0, 1000.0, 0.0)  # none must count past the end
        return {"left": left}, left[None].astype(float), reward, left <= 0


@dataclasses.dataclass(frozen=True)
class Endless(Environment):
    """Never ends; the reward is drawn anew at every step."""

    name = "endless"
    action_space = Discrete(2)
    observation_shape = (2,)
    step_limit = 7

    def reset(self, key):
        return (), jax.random.normal(key, (2,))

    def step(self, state, action, key):
        first, second = jax.random.split(key)
        return state, jax.random.normal(first, (2,)), jax.random.normal(second), False


@dataclasses.dataclass(frozen=True)
class Blind(Environment):
    """Ends after five steps of reward 1; what is observed after `at` of them is NaN."""

    at: int = 9
    name = "blind"
    action_space = Discrete(2)
    observation_shape = (2,)
    step_limit = 20

    def reset(self, key):
        return jnp.int32(0), self._see(0)

    def step(self, state, action, key):
        return state + 1, self._see(state + 1), 1.0, state + 1 >= 5

    def _see(self, time):
        return jnp.where(time == self.at, jnp.array([jnp.nan, 1.0]), 1.0 * time)


def constantly(action):
    return lambda observation, memory, key, legal: (jnp.asarray(action), memory)


def test_steps_after_the_end_count_for_nothing(getkey):
    # Episodes of different lengths side by side: the memory holds the wanted one.
    wanted = jnp.array([0, 3, 5])
    run = lambda length: rollout(
        Countdown(), lambda o, m, k, legal: (m, m), getkey(), memory=length
    )
    episodes = jax.vmap(run)(wanted)
    np.testing.assert_array_equal(episodes.lengths[:, 0], wanted + 1)
    np.testing.assert_array_equal(episodes.returns[:, 0], wanted + 1)
    assert np.all(episodes.terminated)


def test_an_endless_episode_is_truncated_at_the_step_limit(getkey):
    episodes = rollout(Endless(), constantly(0), getkey(), episodes=3)
    np.testing.assert_array_equal(episodes.lengths, 7)
    assert not np.any(episodes.terminated)


def test_ending_at_the_very_limit_is_a_termination(getkey):
    episodes = rollout(Countdown(step_limit=4), constantly(3), getkey())
    assert (episodes.lengths[0], episodes.terminated[0]) == (4, True)


@pytest.mark.parametrize(("limit", "length"), [(3, 3), (100, 7), (jnp.int32(5), 5)])
def test_a_step_limit_can_be_lowered_but_not_raised(limit, length, getkey):
    episodes = jax.jit(lambda limit: rollout(
        Endless(), constantly(0), getkey(), step_limit=limit
    ))(limit)  # fmt: skip
    assert episodes.lengths[0] == length


def test_the_loop_stops_with_the_last_episode(getkey):
    """Counts the steps that are computed, not those that are reported."""
    steps = []
    act = lambda o, m, k, legal: (m + (jax.debug.callback(steps.append, 0) or 0), m)
    run = lambda length: rollout(Countdown(), act, getkey(), memory=length)
    episodes = jax.block_until_ready(jax.vmap(run)(jnp.array([1, 3])))
    jax.effects_barrier()
    assert len(steps) == 4
    np.testing.assert_array_equal(episodes.computed, 4)


def test_a_member_does_not_depend_on_its_neighbours(getkey):
    keys = jax.random.split(getkey(), 4)
    run = lambda key, action: rollout(
        make("gymnax/CartPole-v1"), constantly(action), key, episodes=2, observe=True
    )
    actions = jnp.array([0, 1, 0, 1])
    together = jax.jit(jax.vmap(run))(keys, actions)
    alone = jax.jit(run)(keys[2], actions[2])
    together = together._replace(computed=jnp.full(4, alone.computed))  # that does
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[2], b, rtol=1e-5, atol=1e-6),
        together,
        alone,
    )


def test_the_same_key_gives_the_same_episodes_and_another_key_others(getkey):
    run = jax.jit(lambda key: rollout(Endless(), constantly(0), key, episodes=4))
    key, other = getkey(), getkey()
    first, again = run(key), run(key)
    np.testing.assert_array_equal(first.returns, again.returns)
    assert not np.any(np.isin(first.returns, run(other).returns))


def test_an_episode_is_the_same_however_many_run_beside_it(getkey):
    key = getkey()
    few = rollout(Endless(), constantly(0), key, episodes=2)
    many = rollout(Endless(), constantly(0), key, episodes=5)
    np.testing.assert_array_equal(few.returns, many.returns[:2])
    assert len(set(many.returns.tolist())) == 5


def test_observed_moments_are_those_of_the_observations_acted_on(getkey):
    seen = []

    def act(observation, memory, key, legal):
        jax.debug.callback(lambda x: seen.append(np.array(x)), observation)
        return jnp.int32(0), memory  # fmt: skip

    episodes = rollout(Endless(), act, getkey(), episodes=3, observe=True)
    jax.effects_barrier()
    assert episodes.observed.count == len(seen) == 21
    np.testing.assert_allclose(episodes.observed.mean, np.mean(seen, 0), rtol=1e-5)
    np.testing.assert_allclose(
        episodes.observed.deviations / 21, np.var(seen, 0), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("at", "length", "total", "terminated"),
    [(0, 0, np.nan, False), (3, 3, np.nan, False), (5, 5, 5.0, True)],
    ids=["at first", "on the way", "at last"],
)
def test_an_episode_is_void_if_nan_would_have_to_be_acted_on(
    at, length, total, terminated, getkey
):
    episodes = rollout(Blind(at), constantly(0), getkey(), observe=True)
    np.testing.assert_array_equal(episodes.returns, [total])
    np.testing.assert_array_equal(episodes.lengths, [length])
    np.testing.assert_array_equal(episodes.terminated, [terminated])
    assert episodes.observed.count == length
    assert np.all(np.isfinite(episodes.observed.mean))


@pytest.mark.parametrize(
    ("space", "legal", "expected"),
    [
        (Discrete(2), [False, True], True),
        (Discrete(2), [False, False], False),
        (Discrete(2), [[True, True], [False, False]], False),  # of a team
        (MultiDiscrete((1, 2)), [True, False, False], False),
        (MultiDiscrete((1, 2)), [True, False, True], True),
    ],
)
def test_there_is_a_choice_if_all_may_do_something(space, legal, expected):
    assert has_choice(space, jnp.array(legal)) == expected


@dataclasses.dataclass(frozen=True)
class Stuck(Endless):
    """Nothing may be done after three steps."""

    def reset(self, key):
        return jnp.int32(0), jnp.zeros(2)

    def step(self, state, action, key):
        return state + 1, jnp.zeros(2), 1.0, state >= 5

    def legal(self, state):
        return jnp.array([False, True]) & (state < 3)


def test_an_episode_is_void_if_nothing_may_be_done(getkey):
    episodes = rollout(Stuck(), constantly(1), getkey())
    assert np.isnan(episodes.returns[0])
    assert not episodes.terminated[0]
    alright = rollout(Stuck(), constantly(1), getkey(), step_limit=3)
    assert alright.returns[0] == 3


NAMES = ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "Breakout-MinAtar")


def random_action(space: Space, key):
    if isinstance(space, Box):
        low, high = jnp.array(space.low), jnp.array(space.high)
        return jax.random.uniform(key, low.shape, minval=low, maxval=high)
    assert isinstance(space, Discrete)
    return jax.random.randint(key, (), 0, space.n)


@pytest.mark.parametrize("name", NAMES)
def test_returns_are_those_of_a_plain_loop_over_gymnax(name, getkey):
    """Same seeds, same actions; the loop resets nothing and stops at the end."""
    environment, key = make(f"gymnax/{name}", max_steps_in_episode=60), getkey()
    table = jax.vmap(lambda k: random_action(environment.action_space, k))(
        jax.random.split(getkey(), 61)
    )
    act = lambda observation, time, key, legal: (table[time], time + 1)
    episodes = rollout(environment, act, key, episodes=2, memory=jnp.int32(0))

    original, params = gymnax.make(name)
    params = params.replace(max_steps_in_episode=60)
    step = jax.jit(original.step_env)
    for e in range(2):
        episode_key = jax.random.fold_in(key, e)
        _, state = original.reset(jax.random.fold_in(episode_key, 0), params)
        total, time, terminated, truncated = 0.0, 0, False, False
        while not (terminated or truncated):
            _, step_key = jax.random.split(jax.random.fold_in(episode_key, time + 1))
            _, state, reward, terminated, _ = step(step_key, state, table[time], params)
            total, time = total + float(reward), time + 1
            truncated = original.is_truncated(state, params)
        assert episodes.lengths[e] == time
        assert episodes.terminated[e] == terminated
        np.testing.assert_allclose(episodes.returns[e], total, rtol=1e-5, atol=1e-4)


def test_a_deterministic_policy_draws_no_random_numbers_in_the_loop(getkey):
    """Drawing is dear on a CPU; in CartPole chance decides the first state alone."""
    run = lambda key: rollout(make("gymnax/CartPole-v1"), constantly(0), key)
    compiled = str(jax.jit(run).lower(getkey()).compile().as_text())
    (body,) = _largest_loop_bodies(compiled)
    assert "shift-right-logical" not in body


def _largest_loop_bodies(text: str) -> list[str]:
    """The body of the while loop over time: it alone carries a float and a mask."""
    bodies = [line.split("body=")[1].split(",")[0].strip() for line in text.splitlines()
              if "while(" in line and "pred[" in line]  # fmt: skip
    return [text.split(f"\n{body} ")[1].split("\n}")[0] for body in bodies]
