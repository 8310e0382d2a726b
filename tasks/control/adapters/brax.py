"""Brax: rigid-body physics; on a CPU the spring backend is the fastest."""

import dataclasses
from typing import Any

from jaxtyping import Array, Bool, Float, PRNGKeyArray

from tasks.control.environment import Environment, check_name, library
from tasks.control.spaces import Box, Space


def make(
    name: str, *, backend: str = "spring", step_limit: int = 1000, **options: Any
) -> "Brax":
    """Make the Brax environment `name`, such as `inverted_double_pendulum`.

    Args:
        name: of the environment.
        backend: `spring`, `generalized`, `positional` or `mjx`.
        step_limit: steps after which an episode is truncated.
        **options: passed on to the environment's class.
    """
    envs = library("brax.envs", extra="rl-brax")
    check_name(name, envs._envs, library="brax")
    environment = envs.get_environment(name, backend=backend, **options)
    return Brax(
        name=f"brax/{name}",
        action_space=Box.of(-1, 1, size=environment.action_size),
        observation_shape=(environment.observation_size,),
        step_limit=step_limit,
        environment=environment,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Brax(Environment):
    """A Brax environment without the wrappers that reset it and count its steps."""

    name: str
    action_space: Space
    observation_shape: tuple[int, ...]
    step_limit: int
    environment: Any = dataclasses.field(repr=False)

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Float[Array, "..."]]:
        state = self.environment.reset(key)
        return state, state.obs

    def step(
        self, state: Any, action: Array, key: PRNGKeyArray
    ) -> tuple[Any, Float[Array, "..."], Float[Array, ""], Bool[Array, ""]]:
        del key  # Brax draws from a key in its state, if at all
        state = self.environment.step(state, action)
        return state, state.obs, state.reward, state.done.astype(bool)
