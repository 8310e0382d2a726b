"""A recurrent network that is run one step at a time, its memory in the open."""

from collections.abc import Sequence
from itertools import pairwise

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from models.activations import activation as activation_named


class GRU(nnx.Module):
    """Fully connected layers, then gated recurrent units, then a linear head.

    Called as `outputs, memory = model(x, memory)`, from `model.initial_memory()` on.

    References:
        Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder"
        (2014), https://arxiv.org/abs/1406.1078.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: Sequence[int] = (64, 64),
        activation: str = "pqn",
        rngs: nnx.Rngs,
    ):
        """Draw the weights.

        Args:
            inputs: features of the input.
            outputs: features of the output.
            hidden: widths of the fully connected layers, and last the number of
                recurrent units.
            activation: of the fully connected layers, by name.
            rngs: the random streams.

        Raises:
            ValueError: if there is no hidden layer, or the activation is unknown.
        """
        if not hidden or min(inputs, outputs, *hidden) < 1:
            raise ValueError(
                "A GRU needs a hidden layer and sizes of at least 1, got "
                f"{inputs=}, hidden={tuple(hidden)}, {outputs=}."
            )
        *before, units = inputs, *hidden
        self.units = units
        self.activation = activation_named(activation)
        self.layers = nnx.List(
            [nnx.Linear(m, n, rngs=rngs) for m, n in pairwise(before)]
        )
        self.cell = nnx.GRUCell(before[-1], units, rngs=rngs)
        self.head = nnx.Linear(units, outputs, rngs=rngs)

    def initial_memory(self) -> Float[Array, " units"]:
        """Return what there is to remember before the first step: nothing."""
        return jnp.zeros(self.units)

    def __call__(
        self, x: Float[Array, "*batch inputs"], memory: Float[Array, "*batch units"]
    ) -> tuple[Float[Array, "*batch outputs"], Float[Array, "*batch units"]]:
        """Take one step; inputs and memory may have leading axes, the same ones."""
        for layer in self.layers:
            x = self.activation(layer(x))
        memory, x = self.cell(memory, x)
        return self.head(x), memory
