"""What an adapter has to put right, on small libraries that do the same."""

import dataclasses
import sys
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eggroll import UserError
from tasks.control import Control
from tasks.control.adapters import make
from tasks.control.environment import check_options, library
from tasks.control.rollout import rollout, summary


def episode(environment, action=0):
    act = lambda observation, memory, key, legal: (jnp.asarray(action), memory)
    return rollout(environment, act, jax.random.key(0))


class Spec(NamedTuple):
    """Of a choice, as Jumanji describes it."""

    num_values: int
    shape: tuple[int, ...] = ()

    def generate_value(self):
        return jnp.zeros(2)


class Jumanji:
    """Like Jumanji: the end, after `length` steps, and the time limit are `last`."""

    action_spec, observation_spec = Spec(2), Spec(2)
    time_limit = 6

    def __init__(self, length=99, reward=1.0):
        self.length, self.reward = length, jnp.asarray(reward)

    def reset(self, key):
        return jnp.int32(0), self._see(0)

    def step(self, state, action):
        return state + 1, self._see(state + 1)

    def _see(self, time):
        last = (time >= self.length) | (time >= self.time_limit)
        return SimpleNamespace(
            observation=jnp.ones(2) * time, reward=self.reward, last=lambda: last
        )


@pytest.fixture
def jumanji(monkeypatch):
    library = SimpleNamespace(
        registered_environments=lambda: ["Small-v0"],
        make=lambda name, **options: Jumanji(**options),
    )
    monkeypatch.setitem(sys.modules, "jumanji", library)


@pytest.mark.parametrize(("length", "steps", "ends"), [(4, 4, True), (99, 6, False)])
def test_a_time_limit_of_jumanji_is_no_end(jumanji, length, steps, ends):
    episodes = episode(make("jumanji/Small-v0", length=length))
    assert (episodes.lengths[0], episodes.terminated[0]) == (steps, ends)


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Of Craftax."""

    max_timesteps: int

    def replace(self, **options):
        return dataclasses.replace(self, **options)


@dataclasses.dataclass
class Craftax:
    """Like Craftax: the end, after `dies` steps, and the time limit are `done`."""

    dies: int
    default_params = Parameters(6)
    num_actions = 3

    def observation_space(self, parameters):
        return np.zeros(2)

    def reset_env(self, key, parameters):
        return jnp.zeros(2), jnp.int32(0)

    def step_env(self, key, state, action, parameters):
        time = state + 1
        done = (time >= self.dies) | (time >= parameters.max_timesteps)
        return jnp.zeros(2), time, 1.0, done, {}


@pytest.mark.parametrize(("dies", "steps", "ends"), [(6, 6, True), (99, 6, False)])
def test_a_time_limit_of_craftax_is_no_end(monkeypatch, dies, steps, ends):
    create = lambda name, auto_reset: Craftax(dies)
    library = SimpleNamespace(make_craftax_env_from_name=create)
    monkeypatch.setitem(sys.modules, "craftax.craftax_env", library)
    episodes = episode(make("craftax/Craftax-Symbolic-v1"))
    assert (episodes.lengths[0], episodes.terminated[0]) == (steps, ends)


class Choice(NamedTuple):
    """A space of JaxMARL."""

    n: int
    shape: tuple[int, ...] = ()


class Sees(NamedTuple):
    """Another one."""

    shape: tuple[int, ...] = (1,)


@dataclasses.dataclass
class Duel:
    """Like SMAX: at time t agent i may take action (t + i) mod 3 alone, for 1 each.

    The last agent, which is dead, may only wait (action 0).
    """

    agents: tuple[str, ...] = ("ally_0", "ally_1", "ally_2")
    available: bool = True
    max_steps = 4

    def action_space(self, agent):
        return Choice(3 + (agent == self.agents[0]))

    def observation_space(self, agent):
        return Sees()

    def reset(self, key):
        return self.get_obs(0), jnp.int32(0)

    def get_obs(self, state):
        return {agent: jnp.ones(1) * state for agent in self.agents}

    def right(self, state, i):
        return 0 if i == len(self.agents) - 1 else (state + i) % 3

    def step_env(self, key, state, actions):
        rewards = {
            agent: jnp.where(actions[agent] == self.right(state, i), 1.0, -9.0)
            for i, agent in enumerate(self.agents)
        }
        done = {"__all__": state + 1 >= 99}
        return self.get_obs(state + 1), state + 1, rewards, done, {}

    def get_avail_actions(self, state):
        if not self.available:
            raise NotImplementedError
        return {
            agent: jnp.arange(self.action_space(agent).n) == self.right(state, i)
            for i, agent in enumerate(self.agents)
        }


class Field(NamedTuple):
    """The state of a battle, as SMAX has it."""

    time: jax.Array
    ends: jax.Array  # how it will
    unit_alive: jax.Array
    unit_teams: jax.Array


class Battle(Duel):
    """After two steps the enemy falls, or the allies, or all, or nobody until 4 steps.

    Chance decides; each has the number of the end as its reward in the last step.
    """

    agents = ("ally_0", "ally_1", "enemy_0")
    alive = jnp.array([[1, 0, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1]], bool)

    def __init__(self):
        pass

    def reset(self, key):
        ends, units = jax.random.randint(key, (), 0, 4), jnp.ones(3, bool)
        field = Field(jnp.int32(0), ends, units, jnp.array([0.0, 0.0, 1.0]))
        return self.get_obs(0), field

    def step_env(self, key, state, actions):
        time = state.time + 1
        falls = time >= 2
        alive = jnp.where(falls, self.alive[state.ends], state.unit_alive)
        over = (falls & (state.ends < 3)) | (time >= 4)
        rewards = dict.fromkeys(self.agents, jnp.where(over, 1.0 * state.ends, 0))
        state = state._replace(time=time, unit_alive=alive)
        return self.get_obs(time), state, rewards, {"__all__": over}, {}

    def get_avail_actions(self, state):
        raise NotImplementedError


@pytest.fixture
def jaxmarl(monkeypatch):
    made = {"Duel": Duel, "Battle": Battle}
    library = SimpleNamespace(
        registered_envs=["Duel", "Battle", "coin_game"],
        make=lambda name, **options: made.get(name, Duel)(**options),
    )
    monkeypatch.setitem(sys.modules, "jaxmarl", library)


def test_a_team_takes_the_actions_that_the_state_allows(jaxmarl, getkey):
    task = Control(environment="jaxmarl/Duel", hidden=(), evaluation_episodes=2)
    metrics = task.validate(task.init(getkey()), task.initial_state(), getkey())
    assert metrics["return"] == metrics["episode_length"] == 5  # with every one right
    legal = task.env.legal(jnp.int32(1))
    assert legal is not None
    np.testing.assert_array_equal(
        legal, [[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]
    )  # fmt: skip


def test_a_team_of_which_nothing_is_said_takes_the_actions_it_has(jaxmarl):
    legal = make("jaxmarl/Duel", available=False).legal(jnp.int32(0))
    assert legal is not None
    np.testing.assert_array_equal(legal.sum(axis=1), [4, 3, 3])


SIDES = ("ally_0", "enemy_0", "enemy_1")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Duel", {"agents": SIDES}, r"enemy_0, enemy_1 against ally_0.*side: ally"),
        ("Duel", {"agents": SIDES, "side": "ally"}, "opponents: random; got side=ally"),
        (
            "Duel",
            {"agents": SIDES, "side": "foe", "opponent": "random"},
            "sides: enemy",
        ),
        ("Duel", {"side": "ally", "opponent": "random"}, "has one side"),
        ("coin_game", {}, "each agent plays for itself"),
    ],
)
def test_a_game_against_others_is_refused_unless_a_side_is_chosen(
    jaxmarl, name, options, message
):
    with pytest.raises(ValueError, match=message):
        make(f"jaxmarl/{name}", **options)


@pytest.mark.parametrize(("side", "members"), [("ally", 1), ("enemy", 2)])
def test_a_side_has_its_own_reward_and_the_other_does_what_it_may(
    jaxmarl, side, members, getkey
):
    options = {"agents": SIDES, "side": side, "opponent": "random"}
    environment: Any = make("jaxmarl/Duel", **options)
    assert environment.agents == members
    rewards = []
    original = environment.environment.step_env

    def spy(*arguments):
        rewards.append((made := original(*arguments))[2])
        return made

    environment.environment.step_env = spy
    _, seen, reward, _ = environment.step(jnp.int32(1), jnp.full(members, 2), getkey())
    assert seen.shape == (members, 1 + members)
    own = [name for name in SIDES if name.startswith(side)]
    assert reward == np.mean([rewards[0][name] for name in own])
    # The other side does the one thing that it may.
    assert {float(rewards[0][name]) for name in SIDES if name not in own} == {1.0}


@pytest.mark.parametrize(("side", "winning"), [("ally", 0), ("enemy", 1)])
def test_who_has_the_last_units_has_won(jaxmarl, side, winning, getkey):
    options = {"side": side, "opponent": "random"}
    environment: Any = make("jaxmarl/Battle", **options)
    wait = lambda seen, memory, key, legal: (jnp.zeros(len(seen), int), memory)
    episodes = rollout(environment, wait, getkey(), episodes=40)
    assert set(np.asarray(episodes.returns)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(episodes.won, episodes.returns == winning)
    share = np.mean(episodes.returns == winning)
    assert summary(jax.device_get(episodes))["win_rate"] == pytest.approx(share)


def test_where_nobody_can_win_there_is_no_win_rate(jaxmarl, getkey):
    task = Control(environment="jaxmarl/Duel", hidden=(), evaluation_episodes=2)
    data = task.batch(task.initial_state(), 0, getkey())
    given = task.init(getkey()), data, task.initial_carry(2), getkey()
    assert "win_rate" not in jax.eval_shape(task.evaluate, *given)[2]["metrics"]


def test_rewards_of_several_agents_of_jumanji_are_summed(jumanji):
    environment = make("jumanji/Small-v0", reward=(1.0, 2.0, 4.0))
    assert Control(environment=environment, hidden=()).env is environment
    assert episode(environment).returns == 6 * 7


class Numbers(NamedTuple):
    """Of continuous actions, as Jumanji describes them."""

    minimum: float = -1.0
    maximum: float = 1.0
    shape: tuple[int, ...] = (3, 2)


def test_actions_of_jumanji_have_the_shape_it_wants(jumanji, monkeypatch):
    seen = []
    monkeypatch.setattr(Jumanji, "action_spec", Numbers())
    original = Jumanji.step
    spy = lambda self, state, action: seen.append(action) or original(
        self, state, action
    )  # fmt: skip
    monkeypatch.setattr(Jumanji, "step", spy)
    environment = make("jumanji/Small-v0")
    state, _ = environment.reset(jax.random.key(0))
    environment.step(state, jnp.arange(6.0), jax.random.key(1))
    np.testing.assert_array_equal(seen[0], jnp.arange(6.0).reshape(3, 2))


def test_shapes_of_jaxmarl_are_those_that_reset_shows(jaxmarl, monkeypatch):
    monkeypatch.setattr(Duel, "observation_space", lambda self, agent: Sees(658))
    image = lambda self, state: {a: jnp.ones((2, 3)) * state for a in self.agents}
    monkeypatch.setattr(Duel, "get_obs", image)
    task = Control(environment="jaxmarl/Duel", hidden=())
    assert task.env.observation_shape == (3, 2 * 3 + 3)


def test_what_a_constructor_wants_is_told_in_one_line(jaxmarl):
    with pytest.raises(ValueError, match=r"^jaxmarl/Duel cannot be made: .*'policy'"):
        make("jaxmarl/Duel", policy=1)


def test_a_space_that_is_missing_after_a_colon_is_asked_for():
    with pytest.raises(ValueError, match=r"a space is missing .* 'size: 20'"):
        check_options({"size:20": None}, ["size"], environment="gymnax/DeepSea")


def test_libraries_are_listed_once():
    with pytest.raises(ValueError, match="library/name") as raised:
        make("zz/x")
    assert str(raised.value).count("jumanji") == 1


def test_what_a_library_prints_as_it_is_imported_is_not_passed_on(
    tmp_path, monkeypatch, capfd
):
    noise = "import sys\nsys.stdout = sys.__stdout__\nprint('Importing...')"
    (tmp_path / "noisy.py").write_text(noise)
    monkeypatch.syspath_prepend(tmp_path)
    assert library("noisy", extra="rl").__name__ == "noisy"
    assert capfd.readouterr().out == ""


def test_what_cannot_be_downloaded_is_told_in_a_line(monkeypatch):
    gymnax = pytest.importorskip("gymnax")

    def offline(name):
        raise OSError("no route to host")

    monkeypatch.setattr(gymnax, "make", offline)
    with pytest.raises(UserError, match=r"downloads, which failed: no route to host"):
        make("gymnax/MNISTBandit-bsuite")
