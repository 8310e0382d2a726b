"""Jumanji: combinatorial problems and puzzles, with masks of the legal actions."""

import dataclasses
import math
import warnings
from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from tasks.control.drawing import Image, image_of
from tasks.control.environment import Environment, check_name, flatten, library
from tasks.control.spaces import Box, Discrete, MultiDiscrete, Space


def names() -> Collection[str]:
    """The environments that there are."""
    return library("jumanji", extra="rl-grid").registered_environments()


def make(name: str, *, step_limit: int | None = None, **options: Any) -> "Jumanji":
    """Make the Jumanji environment `name`, such as `Snake-v1`.

    Args:
        name: of the environment.
        step_limit: steps after which an episode is truncated; by default, and at most,
            Jumanji's own; 1000 where it has none (its episodes end by themselves).
        **options: passed on to the environment's class.
    """
    jumanji = library("jumanji", extra="rl-grid")
    check_name(name, jumanji.registered_environments(), library="jumanji")
    environment = jumanji.make(name, **options)
    observation = environment.observation_spec.generate_value()
    choices, space = _space(environment.action_spec, observation)
    own = getattr(environment, "time_limit", None)
    limits = [int(one) for one in (step_limit, own) if one is not None]
    return Jumanji(
        name=f"jumanji/{name}",
        action_space=space,
        observation_shape=_see(observation).shape,
        step_limit=min(limits, default=1000),
        environment=environment,
        choices=choices,
        time_limit=own,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jumanji(Environment):
    """A Jumanji environment. Its state: Jumanji's, the last observation, the time.

    Where several choices are masked jointly (such as a piece's turn and its place in
    Tetris), they are one choice among all combinations. The observation is a vector
    of all that is observed but the mask. Jumanji does not tell its own time limit from
    an end: what ends at that very step is truncated. Where
    there are several agents, one policy acts for all, for the sum of their rewards.

    Attributes:
        time_limit: Jumanji's own, if it has one.
        choices: sizes of the choices that make an action, if they are taken as one.
    """

    name: str
    action_space: Space
    observation_shape: tuple[int, ...]
    step_limit: int
    environment: Any = dataclasses.field(repr=False)
    choices: tuple[int, ...] | None
    time_limit: int | None

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Float[Array, "..."]]:
        state, timestep = self.environment.reset(key)
        return (state, timestep.observation, jnp.int32(0)), _see(timestep.observation)

    def step(
        self, state: Any, action: Array, key: PRNGKeyArray
    ) -> tuple[Any, Float[Array, "..."], Float[Array, ""], Bool[Array, ""]]:
        del key  # drawn from a key in the state
        if self.choices is not None:
            action = jnp.stack(jnp.unravel_index(action, self.choices))
        elif isinstance(self.action_space, Box):
            action = jnp.reshape(action, self.environment.action_spec.shape)
        inner, timestep = self.environment.step(state[0], action)
        seen = timestep.observation
        time, ended = state[2] + 1, timestep.last()
        if self.time_limit is not None:
            ended = ended & (time < self.time_limit)
        return (inner, seen, time), _see(seen), jnp.sum(timestep.reward), ended

    def legal(self, state: Any) -> Bool[Array, "..."] | None:
        mask = getattr(state[1], "action_mask", None)
        return None if mask is None else jnp.ravel(mask)

    def render(self, state: Any) -> Image:
        """Have Jumanji's own viewer draw, into no window."""
        from matplotlib import pyplot

        pyplot.switch_backend("agg")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no window
            self.environment.render(state[0])
        figure = pyplot.gcf()
        image = image_of(figure)
        pyplot.close(figure)
        return image


def _see(observation: Any) -> Float[Array, " size"]:
    if not hasattr(observation, "_asdict"):
        return flatten(observation)
    parts = observation._asdict()
    parts.pop("action_mask", None)
    return flatten(list(parts.values()))


def _space(spec: Any, observation: Any) -> tuple[tuple[int, ...] | None, Space]:
    """Return the choices that are taken as one, if they are, and the action space."""
    if not hasattr(spec, "num_values"):
        return None, Box.of(spec.minimum, spec.maximum, size=math.prod(spec.shape))
    sizes = tuple(np.atleast_1d(spec.num_values).tolist())
    if spec.shape == ():
        return None, Discrete(sizes[0])
    mask = getattr(observation, "action_mask", None)
    if mask is not None and mask.shape == sizes:
        return sizes, Discrete(math.prod(sizes))
    return None, MultiDiscrete(sizes)
