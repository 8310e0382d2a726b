"""Craftax and Craftax-Classic: an open world in JAX."""

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from tasks.control.drawing import Image
from tasks.control.environment import Environment, check_name, check_options, library
from tasks.control.spaces import Discrete, Space


NAMES = (
    "Craftax-Symbolic-v1",
    "Craftax-Classic-Symbolic-v1",
    "Craftax-Pixels-v1",
    "Craftax-Classic-Pixels-v1",
)


def names() -> Collection[str]:
    """The environments that there are."""
    return NAMES


def make(name: str, **options: Any) -> "Craftax":
    """Make the Craftax environment `name`, one of `NAMES`.

    Args:
        name: of the environment.
        **options: fields of its `EnvParams` to change, such as `max_timesteps`.
    """
    craftax = library("craftax.craftax_env", extra="rl-grid")
    check_name(name, NAMES, library="craftax")
    # Its automatic reset would generate a new world at every step: 100 times slower.
    environment = craftax.make_craftax_env_from_name(name, auto_reset=False)
    parameters = environment.default_params
    fields = {field.name for field in dataclasses.fields(parameters)}
    check_options(options, fields, environment=f"craftax/{name}")
    parameters = parameters.replace(**options)
    return Craftax(
        name=f"craftax/{name}",
        action_space=Discrete(environment.num_actions),
        observation_shape=tuple(environment.observation_space(parameters).shape),
        step_limit=int(parameters.max_timesteps),
        environment=environment,
        # Its own limit counts as an end, which it is not: `step_limit` does that.
        parameters=parameters.replace(max_timesteps=np.iinfo(np.int32).max),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Craftax(Environment):
    """A Craftax world that is left when its player dies. It knows nothing of gymnax."""

    name: str
    action_space: Space
    observation_shape: tuple[int, ...]
    step_limit: int
    environment: Any = dataclasses.field(repr=False)
    parameters: Any = dataclasses.field(repr=False)

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Float[Array, "..."]]:
        observation, state = self.environment.reset_env(key, self.parameters)
        return state, observation.astype(jnp.float32)

    def step(
        self, state: Any, action: Array, key: PRNGKeyArray
    ) -> tuple[Any, Float[Array, "..."], Float[Array, ""], Bool[Array, ""]]:
        observation, state, reward, done, _ = self.environment.step_env(
            key, state, action, self.parameters
        )
        return state, observation.astype(jnp.float32), jnp.float32(reward), done

    def render(self, state: Any) -> Image:
        return np.asarray(jnp.clip(self._draw(state), 0, 255), np.uint8)

    @functools.cached_property
    def _draw(self) -> Callable[[Any], Array]:
        kind = "craftax_classic" if "Classic" in self.name else "craftax"
        renderer = library(f"craftax.{kind}.renderer", extra="rl-grid")
        return jax.jit(renderer.make_craftax_pixel_renderer(16))
