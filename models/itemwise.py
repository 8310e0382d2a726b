"""A network for choices among like things: one small network looks at each of them."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from models.mlp import MLP


class Itemwise(nnx.Module):
    """One perceptron for all items, which sees an item and the mean of all.

    The input holds each feature for all items, one feature after the other; there is
    one output an item. A permutation of the items permutes the outputs.

    References:
        Zaheer et al., "Deep Sets", 2017, https://arxiv.org/abs/1703.06114.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: Sequence[int] = (32, 32),
        activation: str = "pqn",
        rngs: nnx.Rngs,
    ):
        """Draw the weights.

        Args:
            inputs: size of the input, a multiple of the number of items.
            outputs: how many items there are.
            hidden: width of each hidden layer.
            activation: a name from `models.activations.ACTIVATIONS`.
            rngs: the random streams.

        Raises:
            ValueError: if the items have not the same number of features.
        """
        if outputs < 1 or inputs < outputs or inputs % outputs:
            raise ValueError(
                f"Itemwise needs the same features of each of {outputs} items, so a "
                f"multiple of {outputs} inputs, got {inputs}. For vectors take "
                "models.mlp:MLP."
            )
        self.features = inputs // outputs
        self.each = MLP(
            2 * self.features, 1, hidden=hidden, activation=activation, rngs=rngs
        )

    def __call__(
        self, x: Float[Array, "*batch inputs"]
    ) -> Float[Array, "*batch outputs"]:
        """Evaluate the network."""
        items = x.reshape(*x.shape[:-1], self.features, -1).swapaxes(-1, -2)
        mean = jnp.broadcast_to(jnp.mean(items, axis=-2, keepdims=True), items.shape)
        return self.each(jnp.concatenate([items, mean], axis=-1))[..., 0]
