"""What an adapter has to put right, on small libraries that do the same."""

import dataclasses
import sys
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.control.adapters import make
from tasks.control.rollout import rollout


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
