"""Gymnax: classic control, MinAtar, bsuite and small puzzles, all in JAX."""

import dataclasses
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from tasks.control.adapters.classic_drawing import CLASSIC
from tasks.control.drawing import Image, grid
from tasks.control.environment import Environment, check_name, check_options, library
from tasks.control.spaces import Box, Discrete, Space


def names() -> Collection[str]:
    """The environments that there are."""
    return library("gymnax", extra="rl").registered_envs


def make(name: str, **options: Any) -> "Gymnax":
    """Make the gymnax environment `name`.

    Args:
        name: such as `CartPole-v1`.
        **options: fields of the environment's `EnvParams` to change, such as
            `max_steps_in_episode`.

    Raises:
        UserError: if there is no such environment, or it has no such option.
    """
    gymnax = library("gymnax", extra="rl")
    check_name(name, gymnax.registered_envs, library="gymnax")
    environment, parameters = gymnax.make(name)
    fields = {field.name for field in dataclasses.fields(parameters)}
    check_options(options, fields, environment=f"gymnax/{name}")
    parameters = parameters.replace(**options)
    return Gymnax(
        name=f"gymnax/{name}",
        action_space=_space(environment.action_space(parameters)),
        observation_shape=tuple(environment.observation_space(parameters).shape),
        step_limit=int(parameters.max_steps_in_episode),
        environment=environment,
        parameters=parameters,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gymnax(Environment):
    """An environment of gymnax >= 1.0, without its automatic resets.

    `step_env` is called rather than `step`: it tells when an episode *terminated*,
    knows no time limit, and does not compute a reset at every step.
    """

    name: str
    action_space: Space
    observation_shape: tuple[int, ...]
    step_limit: int
    environment: Any = dataclasses.field(repr=False)
    parameters: Any = dataclasses.field(repr=False)

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Float[Array, "..."]]:
        observation, state = self.environment.reset_env(key, self.parameters)
        return state, jnp.asarray(observation, jnp.float32)

    def step(
        self, state: Any, action: Array, key: PRNGKeyArray
    ) -> tuple[Any, Float[Array, "..."], Float[Array, ""], Bool[Array, ""]]:
        observation, state, reward, terminated, _ = self.environment.step_env(
            key, state, action, self.parameters
        )
        return (
            state,
            jnp.asarray(observation, jnp.float32),
            jnp.asarray(reward, jnp.float32),
            jnp.asarray(terminated, bool),
        )

    def render(self, state: Any) -> Image | None:
        if draw := CLASSIC.get(self.name.removeprefix("gymnax/")):
            return draw(state, self.parameters)
        if len(self.observation_shape) < 2:
            return None
        key = jax.random.key(0)
        return grid(self.environment.observe(key, state, None, self.parameters))


def _space(space: Any) -> Space:
    """Translate a gymnax action space; gymnax has one kind or the other."""
    if hasattr(space, "n"):
        return Discrete(int(space.n))
    return Box.of(space.low, space.high, size=int(np.prod(space.shape)))
