"""Brax: rigid-body physics; on a CPU the spring backend is the fastest."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from tasks.control.adapters.bodies import side_view
from tasks.control.drawing import Image
from tasks.control.environment import Environment, check_name, library
from tasks.control.spaces import Box, Space


def names() -> Collection[str]:
    """The environments that there are."""
    return library("brax.envs", extra="rl-brax")._envs


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a paragraph on who maintains Brax
        environment = envs.get_environment(name, backend=backend, **options)
    # Brax's own `observation_size` computes a reset, operation by operation.
    start = jax.eval_shape(environment.reset, jax.random.key(0))
    return Brax(
        name=f"brax/{name}",
        action_space=Box.of(-1, 1, size=environment.action_size),
        observation_shape=start.obs.shape,
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
        state = self._jitted[0](key)
        return state, state.obs

    @functools.cached_property
    def _jitted(self) -> tuple[Callable, Callable]:
        """Its reset and its step, which take seconds to trace: once, that is."""
        return jax.jit(self.environment.reset), jax.jit(self.environment.step)

    def step(
        self, state: Any, action: Array, key: PRNGKeyArray
    ) -> tuple[Any, Float[Array, "..."], Float[Array, ""], Bool[Array, ""]]:
        del key  # Brax draws from a key in its state, if at all
        state = self._jitted[1](state, action)
        return state, state.obs, state.reward, state.done.astype(bool)

    def render(self, state: Any) -> Image:
        """Draw the bodies seen from the side, in the plane of x and z."""
        # Body 0 is the world, which is not among the places.
        at = np.concatenate([np.zeros((1, 3)), state.pipeline_state.x.pos])
        turns = np.concatenate([[(1.0, 0, 0, 0)], state.pipeline_state.x.rot])
        return side_view(self.environment.sys, at, turns)
