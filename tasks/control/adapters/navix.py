"""Navix: the grid worlds of MiniGrid."""

import dataclasses
from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from tasks.control.drawing import Image
from tasks.control.environment import Environment, check_name, library
from tasks.control.spaces import Discrete, Space


def names() -> Collection[str]:
    """The environments that there are."""
    return list(library("navix", extra="rl-grid").registry())


def make(name: str, *, observation: str = "symbolic", **options: Any) -> "Navix":
    """Make the Navix environment `name`, such as `Navix-DoorKey-8x8-v0`.

    Args:
        name: of the environment; `Navix-` may be left out.
        observation: a function of `navix.observations`, such as `symbolic` (the
            whole grid) or `symbolic_first_person` (what lies ahead).
        **options: passed on to the environment, such as `max_steps`.
    """
    navix = library("navix", extra="rl-grid")
    full = name if name.startswith("Navix-") else f"Navix-{name}"
    check_name(full, list(navix.registry()), library="navix")
    observe = getattr(navix.observations, observation, None)
    check_name(observation, dir(navix.observations), library="navix.observations")
    environment = navix.make(full, observation_fn=observe, **options)
    return Navix(
        name=f"navix/{full}",
        action_space=Discrete(len(environment.action_set)),
        observation_shape=tuple(environment.observation_space.shape),
        step_limit=int(environment.max_steps),
        environment=environment,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Navix(Environment):
    """A Navix environment.

    `_step` is called rather than `step`, which under `vmap` would generate a new grid
    at every step, in case the episode had ended.
    """

    name: str
    action_space: Space
    observation_shape: tuple[int, ...]
    step_limit: int
    environment: Any = dataclasses.field(repr=False)

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Float[Array, "..."]]:
        timestep = self.environment.reset(key)
        return timestep, timestep.observation.astype(jnp.float32)

    def step(
        self, state: Any, action: Array, key: PRNGKeyArray
    ) -> tuple[Any, Float[Array, "..."], Float[Array, ""], Bool[Array, ""]]:
        del key  # drawn from a key in the state
        timestep = self.environment._step(state, action)
        observation = timestep.observation.astype(jnp.float32)
        reward = timestep.reward.astype(jnp.float32)
        return timestep, observation, reward, timestep.is_termination()

    def render(self, state: Any) -> Image:
        observations = library("navix.observations", extra="rl-grid")
        return np.asarray(observations.rgb(state.state))
