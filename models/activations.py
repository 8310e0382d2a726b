"""Activations by name, so that a config can say which one it wants."""

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
from flax import nnx
from jaxtyping import Array, Float


Activation = Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]]


def pqn(x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
    r"""Return `relu(layer_norm(x))`, the norm without scale and offset.

    $\max\bigl(0, (x - \bar x) / \sqrt{\operatorname{var} x + 10^{-6}}\bigr)$ over
    the last axis. It keeps the scale of a layer's output whatever the perturbation
    does to the weights before it.

    References:
        Gallici et al., "Simplifying Deep Temporal Difference Learning" (2025),
        https://arxiv.org/abs/2407.04811.
    """
    return nnx.relu(jax.nn.standardize(x, axis=-1, epsilon=1e-6))


ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        "pqn": pqn,
        "relu": nnx.relu,
        "tanh": nnx.tanh,
        "gelu": nnx.gelu,
        "silu": nnx.silu,
        "elu": nnx.elu,
        "identity": lambda x: x,
    }
)


def activation(name: str) -> Activation:
    """Look an activation up by its name.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in ACTIVATIONS:
        near = difflib.get_close_matches(name, ACTIVATIONS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"There is no activation {name!r}; there are: "
            f"{', '.join(sorted(ACTIVATIONS))}.{hint}"
        )
    return ACTIVATIONS[name]
