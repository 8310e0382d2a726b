"""JaxMARL: cooperative teams, such as those of the multi-particle environments."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from eggroll import UserError
from tasks.control.drawing import Image, Shape, capsule, scene
from tasks.control.environment import Environment, check_name, library
from tasks.control.spaces import Box, Discrete, Space


def make(name: str, *, step_limit: int | None = None, **options: Any) -> "JaxMARL":
    """Make the JaxMARL environment `name`, such as `MPE_simple_spread_v3`.

    Args:
        name: of the environment.
        step_limit: steps after which an episode is truncated; by default as many
            as JaxMARL takes, 26 in the multi-particle environments.
        **options: passed on to the environment's class.
    """
    jaxmarl = library("jaxmarl", extra="rl-marl")
    check_name(name, jaxmarl.registered_envs, library="jaxmarl")
    environment = jaxmarl.make(name, **options)
    agents = list(environment.agents)
    shapes = [environment.observation_space(agent).shape for agent in agents]
    if any(len(shape) != 1 for shape in shapes):
        raise UserError(
            f"jaxmarl/{name} has observations of shape {shapes}; only teams that "
            "observe vectors, as in MPE_*, are supported."
        )
    widest = max(shape[0] for shape in shapes)
    # Its environments say `done` one step after `max_steps`.
    limit = step_limit or int(getattr(environment, "max_steps", 999)) + 1
    return JaxMARL(
        name=f"jaxmarl/{name}",
        action_space=_space([environment.action_space(agent) for agent in agents]),
        observation_shape=(len(agents), widest + len(agents)),
        step_limit=limit,
        agents=len(agents),
        environment=environment,
        actions=tuple(_size(environment.action_space(agent)) for agent in agents),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class JaxMARL(Environment):
    """A team whose reward is the mean of its members' rewards.

    So that one network can serve all agents, their observations are padded with zeros
    to the same width and followed by the agent's number, one-hot. An agent may take the
    actions that the library says are available in a state (`get_avail_actions`), to it
    and be it dead or alive, or else all it has, which may be fewer than another has. A
    time limit of JaxMARL's own
    counts as an end, as it does in JaxMARL.

    Attributes:
        actions: how many actions each agent has.
    """

    name: str
    action_space: Space
    observation_shape: tuple[int, ...]
    step_limit: int
    agents: int
    environment: Any = dataclasses.field(repr=False)
    actions: tuple[int, ...]

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Float[Array, "..."]]:
        observations, state = self.environment.reset(key)
        return state, self._stack(observations)

    def step(
        self, state: Any, action: Array, key: PRNGKeyArray
    ) -> tuple[Any, Float[Array, "..."], Float[Array, ""], Bool[Array, ""]]:
        names = self.environment.agents
        actions = {name: action[i] for i, name in enumerate(names)}
        # `step_env`, not `step`, which computes a reset at every step.
        observations, state, rewards, done, _ = self.environment.step_env(
            key, state, actions
        )
        reward = jnp.mean(jnp.stack([rewards[name] for name in names]))
        return state, self._stack(observations), reward, done["__all__"]

    def legal(self, state: Any) -> Bool[Array, "agents actions"] | None:
        if not isinstance(self.action_space, Discrete):
            return None
        available = _available(self.environment, state)
        most = self.action_space.n
        rows = [
            jnp.arange(most) < size
            if available is None
            else jnp.pad(jnp.asarray(available[name], bool), (0, most - size))
            for name, size in zip(self.environment.agents, self.actions, strict=True)
        ]
        return jnp.stack(rows)

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

    def _stack(self, observations: dict[str, Array]) -> Float[Array, "agents size"]:
        team, width = self.observation_shape
        rows = [observations[name] for name in self.environment.agents]
        padded = [jnp.pad(row, (0, width - team - row.size)) for row in rows]
        return jnp.concatenate([jnp.stack(padded), jnp.eye(team)], axis=1)


def _available(environment: Any, state: Any) -> dict[str, Array] | None:
    """What each agent may do in a state; None: the library does not say."""
    try:
        return environment.get_avail_actions(state)
    except (AttributeError, NotImplementedError):
        return None


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
