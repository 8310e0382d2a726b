"""Pgx: MinAtar and 2048. Its board games are for two, and so not offered here."""

import dataclasses
from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from eggroll import UserError
from tasks.control.drawing import Image, board, grid
from tasks.control.environment import Environment, check_name, library
from tasks.control.spaces import Discrete, Space


def names() -> Collection[str]:
    """The environments that there are."""
    return library("pgx", extra="rl-games").available_envs()


def make(name: str, *, step_limit: int = 1000) -> "Pgx":
    """Make the Pgx environment `name`, such as `minatar-breakout` or `2048`.

    Args:
        name: of the environment.
        step_limit: steps after which an episode is truncated; Pgx has no limit.
    """
    pgx = library("pgx", extra="rl-games")
    check_name(name, pgx.available_envs(), library="pgx")
    environment = pgx.make(name)
    if environment.num_players != 1:
        raise UserError(
            f"pgx/{name} is a game for {environment.num_players} players; this task "
            "evolves a single player: choose 2048 or one of minatar-*."
        )
    return Pgx(
        name=f"pgx/{name}",
        action_space=Discrete(environment.num_actions),
        observation_shape=tuple(environment.observation_shape),
        step_limit=step_limit,
        environment=environment,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pgx(Environment):
    """A Pgx environment of one player."""

    name: str
    action_space: Space
    observation_shape: tuple[int, ...]
    step_limit: int
    environment: Any = dataclasses.field(repr=False)

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Float[Array, "..."]]:
        state = self.environment.init(key)
        return state, state.observation.astype(jnp.float32)

    def step(
        self, state: Any, action: Array, key: PRNGKeyArray
    ) -> tuple[Any, Float[Array, "..."], Float[Array, ""], Bool[Array, ""]]:
        state = self.environment.step(state, action, key)
        observation = state.observation.astype(jnp.float32)
        return state, observation, state.rewards[0], state.terminated

    def legal(self, state: Any) -> Bool[Array, "..."]:
        return state.legal_action_mask

    def render(self, state: Any) -> Image | None:
        if self.name == "pgx/2048":
            power = np.argmax(state.observation, axis=-1)
            return board(np.where(power > 0, 2**power, 0))
        return grid(state.observation)
