"""The models that the language task offers, behind one small interface."""

import functools
from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax
from flax import nnx
from jaxtyping import Array, Integer, Num, PRNGKeyArray, PyTree

from models.egg import Egg
from models.integer_math import Rounding
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
    """

    units: int
    is_float: bool

    def init(self, key: PRNGKeyArray) -> PyTree: ...

    def initial_state(self) -> PyTree: ...

    def log_likelihood(
        self, params: PyTree, state: PyTree, tokens: Integer[Array, " tokens"]
    ) -> tuple[Num[Array, ""], PyTree]:
        """The summed log2-probability of all tokens but the first, and the state."""
        ...


def make(
    name: Name, layers: int, width: int, context: int, rounding: Rounding
) -> Network:
    """Builds a network for bytes."""
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
        return FlaxNetwork(build)
    raise ValueError(f"model must be egg, gru or transformer, got {name!r}")


class EggNetwork(Egg):
    """EGG counts in sixteenths of a bit."""

    units = 16
    is_float = False


class FlaxNetwork:
    """A Flax module and its parameters, apart."""

    units = 1
    is_float = True

    def __init__(self, build: Callable[..., nnx.Module]):
        self.build = build
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
        model = nnx.merge(self.graph, nnx.State(params), self.rest)
        state, logits = model(state, tokens[:-1])
        return log_probabilities(logits, tokens[1:]).sum(), state
