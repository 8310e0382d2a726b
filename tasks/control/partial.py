"""Environments of which a policy is shown a part, so that it has to remember."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from eggroll import UserError
from tasks.control.environment import Environment
from tasks.control.spaces import Space


@dataclasses.dataclass(frozen=True)
class Partial(Environment):
    """Another environment without some numbers of each observation's last axis.

    Attributes:
        whole: the other environment.
        unseen: the numbers that are left out, counted from 0.
    """

    whole: Environment
    unseen: tuple[int, ...]

    def __post_init__(self):
        size = self.whole.observation_shape[-1]
        if not set(self.unseen) < set(range(size)):
            raise UserError(
                f"unseen: expected some, not all, of the numbers 0 to {size - 1} that "
                f"{self.whole.name} shows, got {list(self.unseen)}"
            )

    @property
    def name(self) -> str:
        left_out = ", ".join(map(str, sorted(set(self.unseen))))
        return f"{self.whole.name} without {left_out}"

    @property
    def action_space(self) -> Space:
        return self.whole.action_space

    @property
    def observation_shape(self) -> tuple[int, ...]:
        return (*self.whole.observation_shape[:-1], self._seen.size)

    @property
    def step_limit(self) -> int:
        return self.whole.step_limit

    @property
    def agents(self) -> int | None:
        return self.whole.agents

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Float[Array, "..."]]:
        state, observation = self.whole.reset(key)
        return state, self._shown(observation)

    def step(
        self, state: Any, action: Array, key: PRNGKeyArray
    ) -> tuple[Any, Float[Array, "..."], Float[Array, ""], Bool[Array, ""]]:
        state, observation, reward, done = self.whole.step(state, action, key)
        return state, self._shown(observation), reward, done

    def legal(self, state: Any) -> Bool[Array, "..."] | None:
        return self.whole.legal(state)

    def won(self, state: Any) -> Bool[Array, ""] | None:
        return self.whole.won(state)

    def render(self, state: Any) -> UInt8[np.ndarray, "height width 3"] | None:
        return self.whole.render(state)

    @property
    def _seen(self) -> np.ndarray:
        every = np.arange(self.whole.observation_shape[-1])
        return np.setdiff1d(every, self.unseen)

    def _shown(self, observation: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.take(observation, self._seen, axis=-1)


def partial(environment: Environment, unseen: Sequence[int]) -> Environment:
    """The environment with numbers of its observations left out, if there are any."""
    return Partial(environment, tuple(unseen)) if unseen else environment
