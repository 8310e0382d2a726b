"""JaxMARL: cooperative teams, such as those of the multi-particle environments."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from eggroll import UserError
from tasks.control.drawing import Image, Shape, capsule, scene
from tasks.control.environment import Environment, check_name, flatten, library
from tasks.control.spaces import Box, Discrete, Space


# What agents are called who play against the others; in games that are none of a team
# every agent plays for itself.
ADVERSARIES = ("adversary", "leadadversary", "enemy", "eve")
SELFISH = ("coin_game", "storm", "storm_2p", "storm_np")


def names() -> Collection[str]:
    """The environments that there are."""
    return library("jaxmarl", extra="rl-marl").registered_envs


def make(
    name: str,
    *,
    step_limit: int | None = None,
    side: str | None = None,
    opponent: str | None = None,
    **options: Any,
) -> "JaxMARL":
    """Make the JaxMARL environment `name`, such as `MPE_simple_spread_v3`.

    Args:
        name: of the environment.
        step_limit: steps after which an episode is truncated; by default as many
            as JaxMARL takes, 26 in the multi-particle environments.
        side: of a game for two sides, the one to be trained, by what its agents are
            called without their numbers, such as `ally`.
        opponent: what the other side does: a key of `OPPONENTS`.
        **options: passed on to the environment's class.

    Raises:
        UserError: there is no such environment, or it is a game for two sides and
            neither is chosen, or its agents all play for themselves.
    """
    jaxmarl = library("jaxmarl", extra="rl-marl")
    check_name(name, jaxmarl.registered_envs, library="jaxmarl")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Brax System", UserWarning)  # of MABrax
        environment = jaxmarl.make(name, **options)
    agents = _side(name, list(environment.agents), side, opponent)
    # What is announced is not always so.
    observations, _ = jax.eval_shape(environment.reset, jax.random.key(0))
    sizes = [sum(map(_count, jax.tree.leaves(observations[name]))) for name in agents]
    # Its environments say `done` one step after `max_steps`.
    limit = step_limit or int(getattr(environment, "max_steps", 999)) + 1
    return JaxMARL(
        name=f"jaxmarl/{name}" + (f", {side} against {opponent}" if side else ""),
        action_space=_space([environment.action_space(agent) for agent in agents]),
        observation_shape=(len(agents), max(sizes) + len(agents)),
        step_limit=limit,
        agents=len(agents),
        environment=environment,
        team=tuple(agents),
        opponent=opponent,
    )


def _side(
    name: str, agents: list[str], side: str | None, opponent: str | None
) -> list[str]:
    """The agents to be trained, of a game that a team can be trained in."""
    kinds = {agent: str(agent).rpartition("_")[0] for agent in agents}
    hostile = [agent for agent in agents if kinds[agent] in ADVERSARIES]
    others = [agent for agent in agents if agent not in hostile]
    if name in SELFISH:
        raise UserError(
            f"jaxmarl/{name}: each agent plays for itself, and what they gain together "
            "is no measure of a policy; choose a game for a team, such as "
            "MPE_simple_spread_v3"
        )
    if not (hostile and others):
        if side is not None or opponent is not None:
            raise UserError(
                f"jaxmarl/{name} has one side, all of whose agents are trained: leave "
                "out side and opponent"
            )
        return agents
    named = {kinds[agent]: team for team in (hostile, others) for agent in team}
    if side not in named or opponent not in OPPONENTS:
        raise UserError(
            f"jaxmarl/{name} is a game of {_listed(hostile)} against "
            f"{_listed(others)}: say in environment_options which side is trained and "
            f"what the other one does, as in {{side: {kinds[others[0]]}, opponent: "
            f"random}}; sides: {', '.join(named)}; opponents: {', '.join(OPPONENTS)}; "
            f"got side={side}, opponent={opponent}"
        )
    return named[side]


def _listed(agents: list[str]) -> str:
    return ", ".join(agents[:3]) + (", ..." if len(agents) > 3 else "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class JaxMARL(Environment):
    """A team whose reward is the mean of its members' rewards.

    So that one network can serve all agents, their observations are flattened, padded
    with zeros to the same width and followed by the agent's number, one-hot. An agent
    may take the actions that the library says are available to it in a state
    (`get_avail_actions`), be it dead or alive, or else all it has, which may be fewer
    than another has. A time limit of JaxMARL's own counts as an end, as it does in
    JaxMARL.

    Attributes:
        team: names of the agents.
        opponent: what agents do that are not of the team; None if there are none.
    """

    name: str
    action_space: Space
    observation_shape: tuple[int, ...]
    step_limit: int
    agents: int
    environment: Any = dataclasses.field(repr=False)
    team: tuple[str, ...]
    opponent: str | None

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Float[Array, "..."]]:
        observations, state = self.environment.reset(key)
        return state, self._stack(observations)

    def step(
        self, state: Any, action: Array, key: PRNGKeyArray
    ) -> tuple[Any, Float[Array, "..."], Float[Array, ""], Bool[Array, ""]]:
        actions = {name: action[i] for i, name in enumerate(self.team)}
        if self.opponent is not None:
            key, opponent_key = jax.random.split(key)
            actions |= self._opposed(state, opponent_key)
        # `step_env`, not `step`, which computes a reset at every step.
        observations, state, rewards, done, _ = self.environment.step_env(
            key, state, actions
        )
        reward = jnp.mean(jnp.stack([rewards[name] for name in self.team]))
        return state, self._stack(observations), reward, done["__all__"]

    def legal(self, state: Any) -> Bool[Array, "agents actions"] | None:
        if not isinstance(self.action_space, Discrete):
            return None
        available = _available(self.environment, state)
        most, rows = self.action_space.n, []
        for name in self.team:
            size = _size(self.environment.action_space(name))
            mask = jnp.ones(size) if available is None else available[name]
            rows.append(jnp.pad(jnp.asarray(mask, bool), (0, most - size)))
        return jnp.stack(rows)

    def won(self, state: Any) -> Bool[Array, ""] | None:
        """In SMAX: of the units that live, all are of the team, and there are some."""
        battle = getattr(state, "state", state)  # if the enemy is SMAX's own, within
        if not (hasattr(battle, "unit_alive") and hasattr(battle, "unit_teams")):
            return None
        is_enemy = str(self.team[0]).rpartition("_")[0] in ADVERSARIES
        own, alive = battle.unit_teams == is_enemy, battle.unit_alive
        return jnp.any(alive & own) & ~jnp.any(alive & ~own)

    def render(self, state: Any) -> Image | None:
        if not self.name.startswith("jaxmarl/MPE_"):
            return None
        shapes = [
            Shape(capsule(place, place, float(radius)), f"#{bytes(colour).hex()}")
            for place, radius, colour in zip(
                np.asarray(state.p_pos),
                self.environment.rad,
                np.asarray(self.environment.colour, np.uint8),
                strict=True,
            )
        ]
        return scene(shapes, (-2, 2), (-2, 2))

    def _opposed(self, state: Any, key: PRNGKeyArray) -> dict[str, Array]:
        """What the other side does."""
        assert self.opponent is not None
        available = _available(self.environment, state)
        others = [name for name in self.environment.agents if name not in self.team]
        choose, chosen = OPPONENTS[self.opponent], {}
        for i, name in enumerate(others):
            space = self.environment.action_space(name)
            legal = None if available is None else jnp.asarray(available[name], bool)
            chosen[name] = choose(space, jax.random.fold_in(key, i), legal)
        return chosen

    def _stack(self, observations: dict[str, Array]) -> Float[Array, "agents size"]:
        team, width = self.observation_shape
        rows = [flatten(observations[name]) for name in self.team]
        padded = [jnp.pad(row, (0, width - team - row.size)) for row in rows]
        return jnp.concatenate([jnp.stack(padded), jnp.eye(team)], axis=1)


def _random(space: Any, key: PRNGKeyArray, legal: Array | None) -> Array:
    """Anything that may be done, all of it as likely."""
    if not hasattr(space, "n"):
        low, high = jnp.asarray(space.low), jnp.asarray(space.high)
        return jax.random.uniform(key, space.shape, minval=low, maxval=high)
    likely = jnp.zeros(space.n) if legal is None else jnp.where(legal, 0, -jnp.inf)
    return jax.random.categorical(key, likely)


# (space of one agent, key, what it may do if that is known) -> its action
OPPONENTS: dict[str, Callable[[Any, PRNGKeyArray, Array | None], Array]] = {
    "random": _random
}


def _available(environment: Any, state: Any) -> dict[str, Array] | None:
    """What each agent may do in a state; None: the library does not say."""
    try:
        return environment.get_avail_actions(state)
    except (AttributeError, NotImplementedError):
        return None


def _count(leaf: Any) -> int:
    return math.prod(leaf.shape)


def _size(space: Any) -> int:
    return int(space.n) if hasattr(space, "n") else int(np.prod(space.shape))


def _space(spaces: list[Any]) -> Space:
    """Return a space that holds the actions of every agent."""
    if all(hasattr(space, "n") for space in spaces):
        return Discrete(max(map(_size, spaces)))
    first = spaces[0]
    if any(hasattr(space, "n") or space.shape != first.shape for space in spaces):
        raise UserError(
            "Expected a team with choices only, or with equally many continuous "
            f"actions each; got {spaces}."
        )
    return Box.of(first.low, first.high, size=_size(first))
