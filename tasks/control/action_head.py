"""From the numbers a model puts out to an action that an environment accepts."""

import dataclasses
from typing import Literal, assert_never

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, Shaped

from eggroll import UserError
from tasks.control.spaces import Box, Discrete, MultiDiscrete, Space


Squash = Literal["tanh", "clip"]
_LOG_STD_BOUNDS = (-5.0, 2.0)


@dataclasses.dataclass(frozen=True)
class ActionHead:
    """Reads a model's outputs as a choice of action, the best one or a random one.

    A *raw* action is what the distribution is over; `action` turns it into what
    the environment takes. They differ for `Box` alone, where raw is unbounded:

        tanh: low + (high - low) (tanh(raw) + 1) / 2
        clip: clip(low + (high - low) (raw + 1) / 2, low, high)

    A number with an infinite bound is passed on as it is, clipped to the finite one.

    Attributes:
        space: the environment's action space.
        deterministic: whether to take the likeliest action (logits' argmax, the
            mean) or to draw one. A `Box` drawn from takes two outputs per number:
            mean and log standard deviation, clipped to [-5, 2].
        squash: how a `Box` keeps to its bounds.
    """

    space: Space
    deterministic: bool = True
    squash: Squash = "tanh"

    def __post_init__(self):
        if self.squash not in ("tanh", "clip"):
            raise UserError(
                f"Expected squash to be 'tanh' or 'clip', got {self.squash!r}."
            )

    @property
    def outputs(self) -> int:
        """How many numbers a model has to put out."""
        match self.space:
            case Discrete(n):
                return n
            case MultiDiscrete(sizes):
                return sum(sizes)
            case Box():
                return self.space.size * (1 if self.deterministic else 2)
            case _:
                assert_never(self.space)

    @property
    def spreads(self) -> int:
        """How many of the outputs, the last ones, are log standard deviations."""
        is_drawn = isinstance(self.space, Box) and not self.deterministic
        return self.outputs // 2 if is_drawn else 0

    def act(
        self,
        outputs: Float[Array, "*batch outputs"],
        key: PRNGKeyArray,
        legal: Bool[Array, "*batch outputs"] | None = None,
    ) -> Shaped[Array, "..."]:
        """Choose an action. The key is not read by a deterministic head."""
        if self.deterministic:
            return self.action(self.mode(outputs, legal))
        return self.action(self.sample(outputs, key, legal))

    def mode(
        self,
        outputs: Float[Array, "*batch outputs"],
        legal: Bool[Array, "*batch outputs"] | None = None,
    ) -> Shaped[Array, "..."]:
        """Return the likeliest raw action; the first one among equals."""
        if isinstance(self.space, Box):
            return outputs[..., : self.space.size]
        chosen = [jnp.argmax(part, axis=-1) for part in self._logits(outputs, legal)]
        return self._join(chosen)

    def sample(
        self,
        outputs: Float[Array, "*batch outputs"],
        key: PRNGKeyArray,
        legal: Bool[Array, "*batch outputs"] | None = None,
    ) -> Shaped[Array, "..."]:
        """Draw a raw action."""
        if isinstance(self.space, Box):
            mean, log_std = self._normal(outputs)
            return mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
        parts = self._logits(outputs, legal)
        keys = jax.random.split(key, len(parts))
        drawn = map(jax.random.categorical, keys, parts)
        return self._join(list(drawn))

    def action(self, raw: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """Turn a raw action into one that the environment takes."""
        if not isinstance(self.space, Box):
            return raw
        low = np.asarray(self.space.low, np.float32)
        high = np.asarray(self.space.high, np.float32)
        bounded = np.isfinite(low) & np.isfinite(high)
        unit = jnp.tanh(raw) if self.squash == "tanh" else raw
        floor, span = np.where(bounded, low, 0), np.where(bounded, high - low, 0)
        scaled = jnp.where(bounded, floor + span * (unit + 1) / 2, raw)
        return jnp.clip(scaled, low, high)

    def log_probability(
        self,
        outputs: Float[Array, "*batch outputs"],
        raw: Shaped[Array, "..."],
        legal: Bool[Array, "*batch outputs"] | None = None,
    ) -> Float[Array, "*batch"]:
        """Return the log probability (for a `Box`, log density) of a raw action."""
        if isinstance(self.space, Box):
            mean, log_std = self._normal(outputs)
            z = (raw - mean) * jnp.exp(-log_std)
            return -jnp.sum(z**2 / 2 + log_std + np.log(2 * np.pi) / 2, axis=-1)
        parts = self._logits(outputs, legal)
        raw = raw[..., None] if isinstance(self.space, Discrete) else raw
        taken = [
            jnp.take_along_axis(jax.nn.log_softmax(part), raw[..., i, None], axis=-1)
            for i, part in enumerate(parts)
        ]
        return jnp.sum(jnp.concatenate(taken, axis=-1), axis=-1)

    def entropy(
        self,
        outputs: Float[Array, "*batch outputs"],
        legal: Bool[Array, "*batch outputs"] | None = None,
    ) -> Float[Array, "*batch"]:
        """Return the entropy of the raw action, in nats."""
        if isinstance(self.space, Box):
            _, log_std = self._normal(outputs)
            return jnp.sum(log_std + np.log(2 * np.pi * np.e) / 2, axis=-1)
        entropies = [_entropy(part) for part in self._logits(outputs, legal)]
        return jnp.sum(jnp.stack(entropies), axis=0)

    def _logits(self, outputs: Array, legal: Array | None) -> list[Array]:
        """Split outputs into one vector of logits per choice; forbid the illegal."""
        if legal is not None:
            outputs = jnp.where(legal, outputs, jnp.finfo(outputs.dtype).min)
        match self.space:
            case MultiDiscrete(sizes):
                return jnp.split(outputs, np.cumsum(sizes)[:-1], axis=-1)
            case _:
                return [outputs]

    def _normal(self, outputs: Array) -> tuple[Array, Array]:
        mean, log_std = jnp.split(outputs, 2, axis=-1)
        return mean, jnp.clip(log_std, *_LOG_STD_BOUNDS)

    def _join(self, choices: list[Array]) -> Array:
        if isinstance(self.space, Discrete):
            return choices[0].astype(jnp.int32)
        return jnp.stack(choices, axis=-1).astype(jnp.int32)


def _entropy(logits: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
