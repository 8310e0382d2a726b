import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eggroll.config import resolve
from eggroll.training import State, find
from tasks.control import Box, Control, Discrete, Environment
from tasks.control.discounted import no_returns
from tasks.control.ppo import PPOSettings
from tasks.control.trajectories import Step, advantages, collect, start


@dataclasses.dataclass(frozen=True)
class Aim(Environment):
    """The reward is best where the action hits the target that is shown."""

    is_continuous: bool = False
    length: int = 3  # the episode ends by itself after as many steps
    observation_shape = (1,)
    step_limit = 5
    name = "aim"

    @property
    def action_space(self):
        return Box((-1.0,), (1.0,)) if self.is_continuous else Discrete(2)

    def reset(self, key):
        target = jax.random.bernoulli(key).astype(float)
        return (target, 0), target[None]

    def step(self, state, action, key):
        target, time = state
        hit = jnp.mean(action) - target
        fresh = jax.random.bernoulli(key).astype(float)
        return (fresh, time + 1), fresh[None], -(hit**2), time + 1 >= self.length


def run(task, updates, rate="0.01"):
    config = resolve(
        {
            "task": {"class": "tasks.control:Control"},
            "algorithm": "ppo",
            "optimizer": {"name": "adam", "learning_rate": float(rate)},
            "budget": {"generations": 1},
        }
    )
    algorithm = find(task, config)
    key = jax.random.key(0)
    params = task.init(key)
    state = State(
        params, algorithm.init(params), jnp.int32(0), key, task.initial_state(), ()
    )
    for _ in range(updates):
        state, metrics = algorithm.step(state, ())
    return state, metrics


def test_advantages_are_the_sums_spelt_out(getkey):
    time, workers, discount, trace = 6, 3, 0.9, 0.8
    draw = lambda: jax.random.normal(getkey(), (time, workers))
    reward, values, following = draw(), draw(), draw()
    terminated = jax.random.bernoulli(getkey(), 0.3, (time, workers))
    truncated = jax.random.bernoulli(getkey(), 0.3, (time, workers)) & ~terminated
    nothing = jnp.zeros((time, workers))
    steps = Step(
        nothing,
        None,
        nothing,
        (),
        reward,
        nothing,
        terminated,
        truncated,
        nothing,
        void=jnp.zeros((time, workers), bool),
    )
    result = advantages(steps, values, following, discount=discount, trace=trace)
    for w in range(workers):
        for t in range(time):
            expected, factor = 0.0, 1.0
            for s in range(t, time):
                bootstrap = 0.0 if terminated[s, w] else following[s, w]
                expected += factor * (
                    reward[s, w] + discount * bootstrap - values[s, w]
                )
                factor *= discount * trace
                if terminated[s, w] or truncated[s, w]:
                    break
            np.testing.assert_allclose(result[t, w], expected, rtol=1e-4, atol=1e-5)


def test_what_is_seen_at_a_termination_counts_for_nothing_nan_or_not():
    ends, goes_on = jnp.array([[False], [True]]), jnp.zeros((2, 1), bool)
    nothing, reward = jnp.zeros((2, 1)), jnp.ones((2, 1))
    steps = Step(
        nothing, None, nothing, (), reward, nothing, ends, goes_on, nothing, goes_on
    )
    following = jnp.array([[3.0], [jnp.nan]])
    result = advantages(steps, nothing, following, discount=0.5, trace=1.0)
    np.testing.assert_allclose(result[:, 0], [1 + 0.5 * 3 + 0.5 * 1, 1])


@pytest.mark.parametrize(
    ("length", "limit", "ends"), [(3, 5, "terminated"), (9, 4, "truncated")]
)
def test_workers_begin_anew_after_an_end_of_either_kind(length, limit, ends, getkey):
    environment, key = Aim(length=length), getkey()
    choose = lambda observation, key, legal: (jnp.int32(0), jnp.int32(0), ())
    workers, steps = collect(
        environment,
        choose,
        start(environment, key, 2),
        key,
        steps=12,
        step_limit=limit,
    )
    period = min(length, limit)
    expected = np.arange(12) % period == period - 1
    for worker in range(2):
        np.testing.assert_array_equal(getattr(steps, ends)[:, worker], expected)
        np.testing.assert_array_equal(np.isfinite(steps.total[:, worker]), expected)
    episode = steps.reward[:period, 0]
    np.testing.assert_allclose(steps.total[period - 1, 0], episode.sum(), rtol=1e-6)
    np.testing.assert_array_equal(workers.time, 0)
    # What follows an end is what was seen at it, not the first of the next episode.
    same = (steps.following[:-1] == steps.observation[1:])[..., 0].all(axis=1)
    assert np.all(same[~expected[:-1]])


@dataclasses.dataclass(frozen=True)
class Blind(Environment):
    """Ends after five steps of reward 1; NaN is seen after `at` of them."""

    at: int = 9
    name = "blind"
    action_space = Discrete(2)
    observation_shape = (1,)
    step_limit = 20

    def reset(self, key):
        return jnp.int32(0), self._see(0)

    def step(self, state, action, key):
        return state + 1, self._see(state + 1), 1.0, state + 1 >= 5

    def _see(self, time):
        return jnp.where(time == self.at, jnp.nan, 1.0 * time)[None]


@pytest.mark.parametrize(
    ("at", "void", "total"),
    [
        pytest.param(0, 1.0, np.nan, id="at first", marks=pytest.mark.slow),
        pytest.param(3, 1 / 3, np.nan, id="on the way", marks=pytest.mark.slow),
        pytest.param(5, 0.0, 5.0, id="at last"),
    ],
)
def test_nan_is_never_learnt_from(at, void, total):
    task = Control(
        environment=Blind(at),
        hidden=(4,),
        normalise_observations=True,
        ppo=PPOSettings(workers=2, steps=15, epochs=1, minibatches=2),
    )
    state, metrics = run(task, 2)
    for leaf in jax.tree.leaves((state.params, state.opt_state.critic, state.task)):
        assert np.all(np.isfinite(leaf))
    assert metrics["fitness/nonfinite"] == pytest.approx(void)
    np.testing.assert_array_equal(metrics["fitness/mean"], total)


SMALL = PPOSettings(workers=16, steps=16, minibatches=4)


LIKELIEST = CONTINUOUS = pytest.param(True, marks=pytest.mark.slow)


@pytest.mark.parametrize("is_continuous", [False, CONTINUOUS])
@pytest.mark.parametrize("deterministic", [False, LIKELIEST])
def test_ppo_learns_to_aim(is_continuous, deterministic):
    task = Control(
        environment=Aim(is_continuous),
        hidden=(16,),
        activation="tanh",
        deterministic=deterministic,
        normalise_observations=True,
        ppo=SMALL,
    )
    state, metrics = run(task, 40)
    start = task.validate(
        task.init(jax.random.key(9)), task.initial_state(), jax.random.key(1)
    )
    final = task.validate(state.params, state.task, jax.random.key(1))
    assert final["return"] > max(-0.6, start["return"])  # 0 is perfect, -1.5 is chance
    assert metrics["samples"] == 16 * 16
    assert state.task.count == 40 * 16 * 16


@pytest.mark.slow
def test_an_update_is_the_same_each_time():
    task = Control(environment=Aim(), hidden=(4,), ppo=SMALL)
    (first, _), (again, _) = run(task, 2), run(task, 2)
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)


def test_what_ppo_cannot_learn_is_refused():
    with pytest.raises(ValueError, match="single agents without memory"):
        run(Control(environment=Aim(), network="gru", hidden=(4,)), 1)
    with pytest.raises(ValueError, match="minibatches must divide"):
        PPOSettings(workers=3, steps=5, minibatches=4)


def test_the_unit_of_returns_is_their_root_mean_square(getkey):
    time, workers, discount = 12, 3, 0.9
    reward = jax.random.normal(getkey(), (time, workers))
    ended = jax.random.bernoulli(getkey(), 0.3, (time, workers))
    returns = no_returns(workers)
    for part in (slice(0, 5), slice(5, 12)):  # as if in two updates
        returns = returns.after(reward[part], ended[part], discount)
    found, running = [], np.zeros(workers)
    for t in range(time):
        running = reward[t] + discount * running
        found.append(running)
        running = np.where(ended[t], 0, running)
    np.testing.assert_allclose(returns.scale, np.sqrt(np.mean(np.square(found))), 1e-5)
    np.testing.assert_allclose(returns.running, running, rtol=1e-5)
    assert no_returns(workers).scale == 1


@dataclasses.dataclass(frozen=True)
class Match(Environment):
    """`scale` times (1 where the action is the bit shown, plus `offset`)."""

    scale: float = 1.0
    offset: float = 0.0
    length: int = 10
    name = "match"
    action_space = Discrete(2)
    observation_shape = (11,)
    step_limit = 20

    def reset(self, key):
        return self._next(0, key)

    def step(self, state, action, key):
        time, bit = state
        state, seen = self._next(time + 1, key)
        reward = self.scale * ((2 * action - 1 == bit) + self.offset)
        return state, seen, reward, time + 1 >= self.length

    def _next(self, time, key):
        bit = jax.random.bernoulli(key).astype(float) * 2 - 1
        seen = jnp.concatenate([bit[None], jax.nn.one_hot(time, 10)])
        return (time, bit), seen


def match(settings=SMALL, *, max_steps=None, start=None, **options) -> Control:
    return Control(
        environment=Match(**options),
        hidden=(16,),
        activation="tanh",
        max_steps=max_steps,
        max_steps_start=start,
        max_steps_ramp=1000,
        ppo=settings,
    )


@pytest.mark.slow
def test_the_unit_of_the_reward_does_not_matter():
    (one, _), (other, _) = run(match(), 3), run(match(scale=1024.0), 3)
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


@pytest.mark.slow
def test_a_constant_in_every_reward_keeps_nothing_from_being_learnt():
    task = match(offset=100.0)
    state, _ = run(task, 60, rate="0.003")
    metrics = task.validate(state.params, state.task, jax.random.key(1))
    assert metrics["return"] > 10 * 100 + 9


@pytest.mark.slow
@pytest.mark.parametrize(("max_steps", "start", "length"), [(50, None, 20), (9, 2, 2)])
def test_step_limits_are_those_of_evolution(max_steps, start, length):
    settings = PPOSettings(workers=2, steps=40, epochs=1, minibatches=2)
    task = match(settings, max_steps=max_steps, start=start, offset=1.0, length=99)
    _, metrics = run(task, 1)
    data = task.batch(task.initial_state(), 0, jax.random.key(0))
    assert data.step_limit == length
    assert length <= metrics["fitness/mean"] <= 2 * length
