"""Diagnostics of the integer model: what its numbers do to their eight bits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, UInt8

from eggroll.integer import compilation
from models.egg import Egg


def saturation_of(
    model: Egg, params: PyTree, tokens: UInt8[Array, "lanes tokens"]
) -> dict[str, float]:
    """Returns, for each stage of the model, the share of activations at ±127.

    Args:
        model: the model.
        params: its parameters.
        tokens: what is read, from fresh states.
    """
    shares = _saturation(model)(params, tokens)
    return {f"saturation/{name}": float(share) for name, share in shares.items()}


@functools.cache
def _saturation(model: Egg):
    def run(params, tokens):
        def step(state, token):
            state, _, seen = model.activations(params, state, token)
            full = lambda x: jnp.mean(jnp.abs(x.astype(jnp.int32)) == 127)
            return state, jax.tree.map(full, seen)

        read = lambda lane: jax.lax.scan(step, model.initial_state(), lane)[1]
        return jax.tree.map(jnp.mean, jax.vmap(read)(tokens))

    return compilation.jit(run)


def weights_of(params: PyTree) -> dict[str, float]:
    """Returns the entropy of the weights' values in bits, and their mean size."""
    values = np.concatenate(
        [np.asarray(x, int).ravel() for x in jax.tree.leaves(params)]
    )
    counts = np.bincount(values + 128, minlength=256)
    share = counts[counts > 0] / counts.sum()
    return {
        "weights/entropy": float(-np.sum(share * np.log2(share))),
        "weights/size": float(np.mean(np.abs(values))),
    }
