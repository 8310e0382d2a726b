"""Text from a language model."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, PRNGKeyArray, PyTree

from eggroll import UserError
from tasks.language.networks import Network


CHUNK = 64  # bytes made by one compiled call


def sample(
    network: Network,
    params: PyTree,
    prompt: bytes,
    length: int,
    key: PRNGKeyArray,
    temperature: float = 1.0,
) -> Iterator[bytes]:
    """Continues a prompt, some bytes at a time.

    Args:
        network: the model.
        params: its parameters.
        prompt: what to continue; a document's start precedes it.
        length: how many bytes to make.
        key: decides.
        temperature: 1 draws from the model's distribution, 0 takes the likeliest byte;
            for the integer model it is rounded to sixteenths.

    Raises:
        UserError: the model reads windows, and cannot go on from a state.
    """
    if not network.is_recurrent:
        raise UserError(
            "sampling goes on from a recurrent state, which this model has not: "
            "use the model 'egg' or 'gru'"
        )
    read, make = _compiled(network, temperature)
    state, last = network.initial_state(), np.uint8(0)
    if prompt:
        text = np.frombuffer(prompt, np.uint8)
        state = read(params, state, np.concatenate([[np.uint8(0)], text[:-1]]))
        last = text[-1]
    for start in range(0, length, CHUNK):
        keys = jax.random.split(jax.random.fold_in(key, start), CHUNK)
        (state, last), made = make(params, (state, last), keys)
        yield np.asarray(made, np.uint8).tobytes()[: length - start]


@functools.lru_cache(maxsize=4)
def _compiled(network: Network, temperature: float) -> tuple[Any, Any]:
    def read(params: PyTree, state: PyTree, tokens: Array) -> PyTree:
        step = lambda state, token: (network.step(params, state, token)[0], None)
        return lax.scan(step, state, tokens)[0]

    def make(params: PyTree, carry: tuple, keys: PRNGKeyArray) -> tuple:
        def one(carry: tuple, key: PRNGKeyArray) -> tuple:
            state, token = carry
            state, logits = network.step(params, state, token)
            token = network.draw(key, logits, temperature).astype(jnp.uint8)
            return (state, token), token

        return lax.scan(one, carry, keys)

    return jax.jit(read), jax.jit(make)
