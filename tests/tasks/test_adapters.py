"""Every adapter against the library it adapts, stepped by a plain Python loop."""

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eggroll import UserError
from tasks.control import Box, Control, Discrete, MultiDiscrete, adapters
from tasks.control.adapters import make
from tasks.control.environment import flatten
from tasks.control.rollout import rollout


pytestmark = pytest.mark.filterwarnings("ignore:Brax System.*:UserWarning")


class Seen(NamedTuple):
    """What a library says at one moment, in the form that our adapters give it."""

    state: Any
    observation: jax.Array
    reward: float
    ended: bool
    mask: jax.Array | None = None


class Case(NamedTuple):
    """An environment of ours, and functions that reset and step the library's."""

    name: str
    options: dict[str, Any]
    original: Callable[[], tuple[Callable, Callable]]


def gymnax() -> tuple[Callable, Callable]:
    import gymnax

    environment, params = gymnax.make("Catch-bsuite")
    params = params.replace(max_steps_in_episode=40)

    def reset(key):
        observation, state = environment.reset_env(key, params)
        return Seen(state, observation, 0.0, False)

    def step(seen, action, key):
        observation, state, reward, ended, _ = environment.step_env(
            key, seen.state, action, params
        )
        return Seen(state, observation, reward, ended)

    return reset, step


def brax() -> tuple[Callable, Callable]:
    from brax import envs

    environment = envs.create(
        "inverted_double_pendulum", backend="spring", auto_reset=False
    )

    def see(state):
        return Seen(state, state.obs, state.reward, state.done)

    return (
        lambda key: see(environment.reset(key)),
        lambda seen, action, key: see(environment.step(seen.state, action)),
    )


def playground() -> tuple[Callable, Callable]:
    from mujoco_playground import registry

    environment = registry.load("CartpoleBalance", config_overrides={"impl": "jax"})

    def see(state):
        return Seen(state, state.obs, state.reward, state.done)

    return (
        lambda key: see(environment.reset(key)),
        lambda seen, action, key: see(environment.step(seen.state, action)),
    )


def craftax() -> tuple[Callable, Callable]:
    from craftax.craftax_env import make_craftax_env_from_name

    environment = make_craftax_env_from_name("Craftax-Classic-Symbolic-v1", False)

    def reset(key):
        observation, state = environment.reset(key)
        return Seen(state, observation, 0.0, False)

    def step(seen, action, key):
        observation, state, reward, ended, _ = environment.step(key, seen.state, action)
        return Seen(state, observation, reward, ended)

    return reset, step


def jumanji(name: str) -> Callable[[], tuple[Callable, Callable]]:
    def original():
        import jumanji

        environment = jumanji.make(name)

        def see(state, timestep):
            parts = timestep.observation._asdict()
            mask = parts.pop("action_mask")
            observation = flatten(list(parts.values()))
            return Seen(state, observation, timestep.reward, timestep.last(), mask)

        def step(seen, action, key):
            if seen.mask.ndim > 1:
                action = jnp.array(jnp.unravel_index(action, seen.mask.shape))
            return see(*environment.step(seen.state, action))

        return lambda key: see(*environment.reset(key)), step

    return original


def navix() -> tuple[Callable, Callable]:
    import navix

    environment = navix.make("Navix-DoorKey-5x5-v0", max_steps=40)

    def see(timestep):
        return Seen(timestep, timestep.observation, timestep.reward, timestep.is_done())

    return (
        lambda key: see(environment.reset(key)),
        lambda seen, action, key: see(environment.step(seen.state, action)),
    )


def pgx() -> tuple[Callable, Callable]:
    import pgx

    environment = pgx.make("2048")

    def see(state):
        mask = state.legal_action_mask
        return Seen(state, state.observation, state.rewards[0], state.terminated, mask)

    return (
        lambda key: see(environment.init(key)),
        lambda seen, action, key: see(environment.step(seen.state, action, key)),
    )


def jaxmarl() -> tuple[Callable, Callable]:
    import jaxmarl

    environment = jaxmarl.make("MPE_simple_spread_v3")

    def see(observations, state, reward, ended):
        rows = jnp.stack([observations[agent] for agent in environment.agents])
        return Seen(state, jnp.hstack([rows, jnp.eye(3)]), reward, ended)

    def step(seen, action, key):
        actions = dict(zip(environment.agents, action, strict=True))
        observations, state, rewards, done, _ = environment.step_env(
            key, seen.state, actions
        )
        reward = sum(rewards.values()) / 3
        return see(observations, state, reward, done["__all__"])

    def reset(key):
        observations, state = environment.reset(key)
        return see(observations, state, 0.0, False)

    return reset, step


def kinetix() -> tuple[Callable, Callable]:
    from kinetix.environment import ActionType, ObservationType, make_kinetix_env
    from kinetix.util import load_from_json_file

    level, static, params = load_from_json_file("s/h1_thrust_over_ball.json")
    environment = make_kinetix_env(
        ActionType.MULTI_DISCRETE,
        ObservationType.SYMBOLIC_FLAT,
        None,
        params,
        static,
        auto_reset=False,
    )

    def reset(key):
        observation, state = environment.reset(key, params, level)
        return Seen(state, observation, 0.0, False)

    def step(seen, action, key):
        observation, state, reward, ended, _ = environment.step(
            key, seen.state, action, params
        )
        return Seen(state, observation, reward, ended)

    return reset, step


CASES = {
    "gymnax": Case("gymnax/Catch-bsuite", {"max_steps_in_episode": 40}, gymnax),
    "navix": Case("navix/DoorKey-5x5-v0", {"max_steps": 40}, navix),
    "pgx": Case("pgx/2048", {}, pgx),
    "jumanji": Case("jumanji/Snake-v1", {}, jumanji("Snake-v1")),
    "jaxmarl": Case("jaxmarl/MPE_simple_spread_v3", {}, jaxmarl),
    "jumanji, joint mask": Case("jumanji/Tetris-v0", {}, jumanji("Tetris-v0")),
    "brax": Case("brax/inverted_double_pendulum", {}, brax),
    "playground": Case("mujoco_playground/CartpoleBalance", {}, playground),
    "kinetix": Case("kinetix/s/h1_thrust_over_ball", {}, kinetix),
    "craftax": Case("craftax/Craftax-Classic-Symbolic-v1", {}, craftax),
}
SLOW = {"brax", "craftax", "kinetix", "playground"}  # to compile
each_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=name,
            marks=[
                pytest.mark.skipif(
                    not importlib.util.find_spec(case.name.split("/")[0]),
                    reason=f"needs {case.name.split('/')[0]}",
                ),
                *([pytest.mark.slow] if name in SLOW else []),
            ],
        )
        for name, case in CASES.items()
    ],
)


def act(environment, time, mask):
    """Anything that may be done, other things at other times."""
    shape = () if environment.agents is None else (environment.agents,)
    key = jax.random.fold_in(jax.random.key(7), time)
    space = environment.action_space
    if isinstance(space, Box):
        return jax.random.uniform(key, (space.size,), minval=-1.0)
    if isinstance(space, MultiDiscrete):
        sizes = jnp.array(space.sizes)
        return jnp.int32(jax.random.uniform(key, sizes.shape) * sizes)
    assert isinstance(space, Discrete)
    liking = jax.random.uniform(key, (*shape, space.n))
    if mask is not None:
        liking = jnp.where(mask, liking.reshape(mask.shape), -1)
    return jnp.argmax(liking.reshape(*shape, -1), axis=-1)


def plain_loop(case: Case, environment, key, steps: int) -> Iterator[Seen]:
    reset, step = case.original()
    step, choose = jax.jit(step), jax.jit(lambda t, m: act(environment, t, m))
    seen = jax.jit(reset)(jax.random.fold_in(key, 0))
    yield seen
    for time in range(steps):
        _, step_key = jax.random.split(jax.random.fold_in(key, time + 1))
        seen = step(seen, choose(time, seen.mask), step_key)
        yield seen
        if seen.ended:
            return


@each_case
def test_returns_are_those_of_a_plain_loop_over_the_library(case, getkey):
    environment, key = make(case.name, **case.options), getkey()
    steps = min(50, environment.step_limit)
    policy = lambda observation, time, key, legal: (
        act(environment, time, legal),
        time + 1,
    )
    episodes = jax.jit(
        lambda key: rollout(
            environment, policy, key, step_limit=50, memory=jnp.int32(0), observe=True
        )
    )(key)
    first, *later = plain_loop(case, environment, jax.random.fold_in(key, 0), steps)
    assert episodes.lengths[0] == len(later)
    np.testing.assert_allclose(
        episodes.returns[0], sum(float(seen.reward) for seen in later), rtol=1e-4
    )
    acted_on = np.stack([np.float32(seen.observation) for seen in [first, *later[:-1]]])
    np.testing.assert_allclose(
        episodes.observed.mean, acted_on.mean(axis=0), rtol=1e-3, atol=1e-5
    )


@each_case
def test_a_population_runs_under_jit_the_same_each_time(case, getkey):
    """256 members, 50 steps; and the action space is what the policy puts out."""
    task = Control(
        environment=case.name,
        environment_options=case.options,
        hidden=(8,),
        max_steps=50,
        normalise_observations=True,
    )
    params, key = task.init(getkey()), getkey()
    members = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(key, (256, *x.shape)), params
    )
    data = task.batch(task.initial_state(), 0, key)
    run = jax.jit(jax.vmap(task.evaluate, (0, None, None, 0)))
    keys = jax.random.split(key, 256)
    fitness, _, aux = run(members, data, (), keys)
    again, _, _ = run(members, data, (), keys)
    np.testing.assert_array_equal(fitness, again)
    assert np.all(np.isfinite(fitness))
    assert 0 < np.max(aux["steps"]) <= 50
    assert aux["observed"].mean.shape == (256, *task.env.observation_shape)


@each_case
def test_an_unknown_name_is_refused_with_the_nearest(case):
    with pytest.raises(ValueError, match="Did you mean"):
        make(case.name + "0")


needs = lambda name: pytest.mark.skipif(
    not importlib.util.find_spec(name), reason=f"needs {name}"
)


@needs("jumanji")
def test_several_choices_without_a_mask_stay_several():
    environment = make("jumanji/RubiksCube-v0")
    assert environment.action_space == MultiDiscrete((6, 1, 3))
    assert environment.legal(environment.reset(jax.random.key(0))[0]) is None


@needs("jaxmarl")
def test_agents_unlike_each_other_are_padded_and_masked():
    environment = make("jaxmarl/MPE_simple_speaker_listener_v4")
    state, observation = environment.reset(jax.random.key(0))
    assert observation.shape == environment.observation_shape == (2, 11 + 2)
    np.testing.assert_array_equal(observation[0, 3:11], 0)  # the speaker sees three
    np.testing.assert_array_equal(observation[:, 11:], np.eye(2))
    legal = environment.legal(state)
    assert legal is not None
    np.testing.assert_array_equal(legal.sum(axis=1), [3, 5])


@needs("pgx")
def test_games_for_two_are_refused():
    with pytest.raises(ValueError, match="for 2 players"):
        make("pgx/chess")


@needs("jaxmarl")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("HeuristicEnemySMAX", {"num_allies": 5, "num_enemies": 2}),
        ("SMAX", {"side": "enemy", "opponent": "random", "num_allies": 2}),
    ],
)
def test_battles_are_won_that_have_jaxmarls_bonus_for_it(name, options):
    """Which is 1, in the last step; what else a step gives is less."""
    environment, key = make(f"jaxmarl/{name}", **options), jax.random.key(1)

    def draw(seen, memory, key, legal):
        return jax.random.categorical(key, jnp.where(legal, 0, -jnp.inf)), memory

    def bonus(episode):
        keys = jax.random.fold_in(key, episode)
        state, seen = environment.reset(jax.random.fold_in(keys, 0))

        def step(now, time):
            state, seen, goes_on, won = now
            keys_of = jax.random.split(jax.random.fold_in(keys, time))
            action, _ = draw(seen, (), keys_of[0], environment.legal(state))
            state, seen, reward, done = environment.step(state, action, keys_of[1])
            won = won | (goes_on & done & (reward >= 1))
            return (state, seen, goes_on & ~done, won), None

        start = (state, seen, jnp.bool_(True), jnp.bool_(False))
        times = jnp.arange(1, environment.step_limit + 1)
        return jax.lax.scan(step, start, times)[0][-1]

    episodes = jax.jit(lambda: rollout(environment, draw, key, episodes=64))()
    expected = jax.jit(jax.vmap(bonus))(jnp.arange(64))
    assert 0 < expected.sum() < 64
    np.testing.assert_array_equal(episodes.won, expected)


@needs("mujoco_playground")
def test_robots_whose_models_are_not_there_are_refused_not_downloaded(
    tmp_path, monkeypatch
):
    from mujoco_playground._src import mjx_env

    monkeypatch.setattr(mjx_env, "MENAGERIE_PATH", tmp_path / "absent")
    monkeypatch.setattr(mjx_env, "ensure_menagerie_exists", pytest.fail)
    with pytest.raises(ValueError, match="This downloads them: python -c"):
        make("mujoco_playground/Go1JoystickFlatTerrain")


@needs("mujoco_playground")
def test_options_of_playground_are_those_of_its_configurations():
    environment = make("mujoco_playground/PendulumSwingup", action_repeat=3)
    assert environment.step_limit == 334  # of 1,000 steps
    with pytest.raises(ValueError, match="Did you mean 'ctrl_dt'"):
        make("mujoco_playground/PendulumSwingup", ctrl_d=0.1)


def test_files_that_cannot_be_had_are_told_of_in_a_line(monkeypatch):
    def fails(name, **options):
        raise FileNotFoundError("no such host:\n" + 500 * "x")

    monkeypatch.setattr(adapters, "_load", lambda path: fails)
    with pytest.raises(UserError, match=r"needs files that .* no such host: x") as told:
        make("gymnax/MNISTBandit-bsuite")
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 500
