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
            [nnx.Linear(m, n, rngs=rngs) for m, n in pairwise(sizes)]
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
