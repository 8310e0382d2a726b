"""A random player's returns, by each library's own loop and by our rollout of it.

Chance is not shared, so that means have to agree within three standard errors, of 256
episodes each. The loops are those of `library_loops`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import library_loops as libraries
import numpy as np
import pytest
from library_loops import EPISODES, Loop, Outcome, played

from eggroll import UserError
from tasks.control import Box
from tasks.control.action_head import ActionHead
from tasks.control.adapters import make
from tasks.control.host_environment import describe
from tasks.control.pool import Pool, play
from tasks.control.rollout import rollout


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Brax System.*:UserWarning"),
]


def rolled_out(environment: Any, seed: int, **options: Any) -> Outcome:
    """The same by `rollout`, on one of our adapters."""
    space = environment.action_space
    head = ActionHead(space, deterministic=False)
    shape = () if environment.agents is None else (environment.agents,)

    def act(observation, memory, key, legal):
        if isinstance(space, Box):
            low, high = jnp.array(space.low), jnp.array(space.high)
            size = (*shape, space.size)
            return jax.random.uniform(key, size, minval=low, maxval=high), memory
        return head.act(jnp.zeros((*shape, head.outputs)), key, legal), memory

    run = lambda key: rollout(environment, act, key, episodes=EPISODES, **options)
    episodes = jax.jit(run)(jax.random.key(seed))
    return Outcome(np.asarray(episodes.returns), np.asarray(episodes.lengths))


def distance(one: Outcome, other: Outcome) -> float:
    """Of their means, return or length, in standard errors of the difference."""
    far = []
    for a, b in zip(one, other, strict=True):
        error = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / EPISODES)
        apart = abs(a.mean() - b.mean())
        rounding = 1e-5 * abs(a.mean())  # in sums of float32, of a random order
        far.append(0.0 if apart <= rounding else apart / max(error, 1e-9))
    return max(far)


class Case(NamedTuple):
    """One environment of ours, and the loop of its library."""

    name: str
    loop: Callable[[], Loop]
    options: Mapping[str, Any] = MappingProxyType({})


# Short limits, which most episodes reach but not all, tell a step more from one less.
CASES = {
    "gymnax": Case(
        "gymnax/CartPole-v1",
        lambda: libraries.gymnax("CartPole-v1", max_steps_in_episode=12),
        {"max_steps_in_episode": 12},
    ),
    "gymnax, its own limit": Case(
        "gymnax/Pendulum-v1", lambda: libraries.gymnax("Pendulum-v1")
    ),
    "navix": Case("navix/Empty-5x5-v0", lambda: libraries.navix("Navix-Empty-5x5-v0")),
    "craftax": Case(
        "craftax/Craftax-Classic-Symbolic-v1",
        lambda: libraries.craftax("Craftax-Classic-Symbolic-v1", max_timesteps=100),
        {"max_timesteps": 100},
    ),
    "jumanji": Case(
        "jumanji/Snake-v1",
        lambda: libraries.jumanji("Snake-v1", time_limit=80),
        {"time_limit": 80},
    ),
    "jumanji, until nothing is legal": Case(
        "jumanji/Knapsack-v1", lambda: libraries.jumanji("Knapsack-v1")
    ),
    "brax": Case(
        "brax/inverted_double_pendulum",
        lambda: libraries.brax("inverted_double_pendulum", episode_length=6),
        {"step_limit": 6},
    ),
    "playground": Case(
        "mujoco_playground/PendulumSwingup",
        lambda: libraries.playground(
            "PendulumSwingup", episode_length=200, action_repeat=3
        ),
        {"episode_length": 200, "action_repeat": 3},
    ),
    "pgx": Case("pgx/2048", lambda: libraries.pgx("2048")),
    "jaxmarl": Case(
        "jaxmarl/MPE_simple_spread_v3",
        lambda: libraries.team("MPE_simple_spread_v3", "agent"),
    ),
    "jaxmarl, one side": Case(
        "jaxmarl/SMAX",
        lambda: libraries.team("SMAX", "ally", num_allies=2, num_enemies=2),
        {"side": "ally", "opponent": "random", "num_allies": 2, "num_enemies": 2},
    ),
}


def made(case: Case) -> Any:
    """Our environment; skips where its library is not installed, and says how."""
    try:
        return make(case.name, **case.options)
    except UserError as error:
        if "needs the package" in str(error):
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_random_player_gains_what_it_gains_in_the_librarys_own_loop(case):
    environment = made(case)
    ours, theirs = rolled_out(environment, 1), played(case.loop(), 2)
    assert np.all(np.isfinite(ours.returns))
    assert distance(ours, theirs) < 3, f"{summary(ours)} by ours, {summary(theirs)}"


def summary(outcome: Outcome) -> str:
    return f"return {outcome.returns.mean():.4g}, length {outcome.lengths.mean():.4g}"


def on_the_host(seed: int, *, masked: bool = True) -> Outcome:
    """The same by our pool of Gymnasium's environments."""
    options, draw = {"max_episode_steps": 60}, np.random.default_rng(seed)
    environment = describe("Taxi-v4", options, None)
    assert environment.masked == (6,)

    def act(observation, alive, time, legal):
        liking = draw.random((*alive.shape, 6))
        chosen = np.where(legal, liking, -1) if masked else liking
        return environment.to_native(chosen.argmax(axis=-1))

    pool = Pool("Taxi-v4", options, EPISODES, 0, environment.masked)
    seeds = np.arange(EPISODES, dtype=np.uint32)[:, None] + 10**6 * seed
    result = play(pool, act, seeds, environment.step_limit)
    return Outcome(result.returns[:, 0], result.lengths[:, 0])


def test_so_it_is_on_the_host():
    """Also that masks that are ignored would be noticed."""
    pytest.importorskip("gymnasium", reason="pip install 'eggroll-jax[rl-host]'")
    ours, theirs = on_the_host(1), libraries.taxi(2)
    assert distance(ours, theirs) < 3, f"{summary(ours)} by ours, {summary(theirs)}"
    assert ours.lengths.max() == theirs.lengths.max() == 60
    assert distance(on_the_host(1, masked=False), theirs) > 5


@dataclasses.dataclass(frozen=True)
class Unmasked:
    """An environment of which all is thought to be legal."""

    environment: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.environment, name)

    def legal(self, state: Any) -> None:
        del state


@pytest.mark.parametrize("name", ["gymnax", "jumanji"])
def test_a_step_less_would_be_noticed(name):
    environment = made(CASES[name])
    short = rolled_out(environment, 1, step_limit=environment.step_limit - 1)
    assert distance(short, played(CASES[name].loop(), 2)) > 5


@pytest.mark.parametrize("name", ["jumanji", "pgx"])
def test_masks_that_are_ignored_would_be_noticed(name):
    unmasked = rolled_out(Unmasked(made(CASES[name])), 1)
    assert distance(unmasked, played(CASES[name].loop(), 2)) > 5
