"""The models that the language task offers, behind one small interface."""

import functools
from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int8, Integer, Num, PRNGKeyArray, PyTree

from models.egg import Egg
from models.integer_math import Rounding, exp2_sixteenths, saturate
from models.language import (
    RecurrentLanguageModel,
    TransformerLanguageModel,
    log_probabilities,
)


Name = Literal["egg", "gru", "transformer"]


class Network(Protocol):
    """A language model as pure functions of one sequence.

    Attributes:
        units: how many units of `log_likelihood` are one bit.
        is_float: the log-likelihood has a gradient.
        is_recurrent: `step` goes on from a state.
    """

    units: int
    is_float: bool
    is_recurrent: bool

    def init(self, key: PRNGKeyArray) -> PyTree: ...

    def initial_state(self) -> PyTree: ...

    def log_likelihood(
        self, params: PyTree, state: PyTree, tokens: Integer[Array, " tokens"]
    ) -> tuple[Num[Array, ""], PyTree]:
        """The summed log2-probability of all tokens but the first, and the state."""
        ...

    def step(
        self, params: PyTree, state: PyTree, token: Integer[Array, ""]
    ) -> tuple[PyTree, Num[Array, " vocabulary"]]:
        """The state after a token, and the logits of the next."""
        ...

    def draw(
        self, key: PRNGKeyArray, logits: Num[Array, " vocabulary"], temperature: float
    ) -> Integer[Array, ""]:
        """A token drawn from the logits; the likeliest at temperature 0."""
        ...


def make(
    name: Name, layers: int, width: int, context: int, rounding: Rounding
) -> Network:
    """Builds a network for bytes.

    Raises:
        ValueError: there is none of that name, or none of that size.
    """
    if name == "egg":
        return EggNetwork(layers, width, rounding=rounding)
    if name == "gru":
        return FlaxNetwork(
            functools.partial(RecurrentLanguageModel, layers, width, 256)
        )
    if name == "transformer":
        build = functools.partial(
            TransformerLanguageModel, layers, width, 256, context=context
        )
        return FlaxNetwork(build, is_recurrent=False)
    raise ValueError(f"model must be egg, gru or transformer, got {name!r}")


class EggNetwork(Egg):
    """EGG counts in sixteenths of a bit, and draws with integers only."""

    units = 16
    is_float = False
    is_recurrent = True

    def draw(
        self, key: PRNGKeyArray, logits: Int8[Array, " vocabulary"], temperature: float
    ) -> Integer[Array, ""]:
        """Draws with probability proportional to 2^(logit / (16 temperature)).

        The weights are the integers of the loss's EXP2, and a uniform integer below
        their sum picks one. The temperature is rounded to sixteenths.
        """
        sixteenths = round(16 * temperature)
        if sixteenths == 0:
            return jnp.argmax(logits)
        # Only differences count: the largest logit may as well be the largest int8.
        wide = logits.astype(jnp.int32)
        scaled = saturate(127 + (wide - jnp.max(wide)) * 16 // sixteenths)
        below = jnp.cumsum(exp2_sixteenths(scaled))
        return jnp.sum(below <= jax.random.randint(key, (), 0, below[-1]))


class FlaxNetwork:
    """A Flax module and its parameters, apart."""

    units = 1
    is_float = True

    def __init__(self, build: Callable[..., nnx.Module], *, is_recurrent: bool = True):
        self.build, self.is_recurrent = build, is_recurrent
        model: Any = build(rngs=nnx.Rngs(0))
        self.graph, _, self.rest = nnx.split(model, nnx.Param, ...)
        self.state = model.initial_state()

    def init(self, key: PRNGKeyArray) -> PyTree:
        def init(key):
            return nnx.to_pure_dict(
                nnx.state(self.build(rngs=nnx.Rngs(key)), nnx.Param)
            )

        return jax.jit(init)(key)

    def initial_state(self) -> PyTree:
        return self.state

    def log_likelihood(
        self, params: PyTree, state: PyTree, tokens: Integer[Array, " tokens"]
    ) -> tuple[Num[Array, ""], PyTree]:
        state, logits = self._model(params)(state, tokens[:-1])
        return log_probabilities(logits, tokens[1:]).sum(), state

    def step(
        self, params: PyTree, state: PyTree, token: Integer[Array, ""]
    ) -> tuple[PyTree, Num[Array, " vocabulary"]]:
        state, logits = self._model(params)(state, token[None])
        return state, logits[0]

    def draw(
        self, key: PRNGKeyArray, logits: Num[Array, " vocabulary"], temperature: float
    ) -> Integer[Array, ""]:
        if temperature == 0:
            return jnp.argmax(logits)
        return jax.random.categorical(key, logits / temperature)

    def _model(self, params: PyTree) -> Any:
        return nnx.merge(self.graph, nnx.State(params), self.rest)
