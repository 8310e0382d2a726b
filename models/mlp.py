"""The multi-layer perceptron."""

from collections.abc import Sequence
from itertools import pairwise

from flax import nnx
from jaxtyping import Array, Float

from models.activations import activation as activation_named


class MLP(nnx.Module):
    """Fully connected layers with an activation after each, then a linear head.

    `y = W_h a(W_k ... a(W_1 x + b_1) ... + b_k) + b_h`. Maps over any leading axes.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: Sequence[int] = (256, 256, 256),
        activation: str = "pqn",
        head_scale: float = 1.0,
        embed_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        """Draw the weights (LeCun normal; biases zero).

        Args:
            inputs: features of the input.
            outputs: features of the output.
            hidden: width of each hidden layer; none gives a linear map.
            activation: a name from `models.activations.ACTIVATIONS`.
            head_scale: factor on the head's initial weights. A small one makes all
                outputs nearly equal at the start.
            embed_bias: whether the first layer has a bias.
            rngs: the random streams.

        Raises:
            ValueError: if a size is below 1 or the activation is unknown.
        """
        sizes = (inputs, *hidden)
        if min(*sizes, outputs) < 1:
            raise ValueError(
                "An MLP needs sizes of at least 1, got "
                f"{inputs=}, hidden={tuple(hidden)}, {outputs=}."
            )
        self.activation = activation_named(activation)
        self.layers = nnx.List(
            [
                nnx.Linear(m, n, use_bias=embed_bias or i > 0, rngs=rngs)
                for i, (m, n) in enumerate(pairwise(sizes))
            ]
        )
        self.head = nnx.Linear(
            sizes[-1],
            outputs,
            kernel_init=nnx.initializers.variance_scaling(
                head_scale**2, "fan_in", "truncated_normal"
            ),
            rngs=rngs,
        )

    def __call__(
        self, x: Float[Array, "*batch inputs"]
    ) -> Float[Array, "*batch outputs"]:
        """Evaluate the network on inputs with any leading axes."""
        for layer in self.layers:
            x = self.activation(layer(x))
        return self.head(x)


class PaperMLP(MLP):
    """The policy network of "Evolution Strategies at the Hyperscale".

    An `MLP` whose first layer, the embedding of what is observed, has no bias. The
    paper says "3 layers of 256"; that the embedding is one of them is our reading.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: Sequence[int] = (256, 256, 256),
        activation: str = "pqn",
        rngs: nnx.Rngs,
    ):
        """Draw the weights, as `MLP` does."""
        super().__init__(
            inputs,
            outputs,
            hidden=hidden,
            activation=activation,
            embed_bias=False,
            rngs=rngs,
        )
