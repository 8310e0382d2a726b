"""A small convolutional network, for pixels and grids."""

import math
from collections.abc import Sequence
from itertools import pairwise

from flax import nnx
from jaxtyping import Array, Float

from models.activations import activation as activation_named


class ConvNet(nnx.Module):
    """3x3 convolutions, one fully connected layer, then a linear head.

    Convolutions keep height and width. Maps over any leading axes.
    """

    spatial = True  # wants the shape of its input, not its size

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: int,
        *,
        hidden: Sequence[int] = (16, 128),
        activation: str = "relu",
        strides: int = 1,
        rngs: nnx.Rngs,
    ):
        """Draw the weights.

        Args:
            inputs: height, width and channels of the input.
            outputs: features of the output.
            hidden: channels of each convolution, and last the width of the fully
                connected layer.
            activation: a name from `models.activations.ACTIVATIONS`.
            strides: of each convolution, in both directions.
            rngs: the random streams.

        Raises:
            ValueError: if the input is no image or there are fewer than two layers.
        """
        if len(inputs) != 3 or len(hidden) < 2:
            raise ValueError(
                "A ConvNet needs inputs of (height, width, channels) and at least two "
                "hidden layers, a convolution and a fully connected one; got "
                f"{inputs=}, hidden={tuple(hidden)}. For vectors take models.mlp:MLP."
            )
        *sides, depth = inputs
        *channels, width = hidden
        self.activation = activation_named(activation)
        self.convolutions = nnx.List(
            [
                nnx.Conv(m, n, (3, 3), strides=strides, rngs=rngs)
                for m, n in pairwise((depth, *channels))
            ]
        )
        for _ in channels:
            sides = [math.ceil(side / strides) for side in sides]
        flat = math.prod(sides) * channels[-1]
        self.dense = nnx.Linear(flat, width, rngs=rngs)
        self.head = nnx.Linear(width, outputs, rngs=rngs)

    def __call__(
        self, x: Float[Array, "*batch height width channels"]
    ) -> Float[Array, "*batch outputs"]:
        """Evaluate the network."""
        for convolution in self.convolutions:
            x = self.activation(convolution(x))
        x = x.reshape(*x.shape[:-3], -1)
        return self.head(self.activation(self.dense(x)))
