"""How likely a language model finds given completions, in nats.

Pure functions of the parameters, as `models.llm.generation` is.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from models.llm.interface import LanguageModel, Params


def score(
    model: LanguageModel,
    params: Params,
    tokens: Int[Array, "batch length"],
    starts: Int[Array, " batch"],
    lengths: Int[Array, " batch"],
    *,
    temperature: float = 1.0,
    chunk: int = 64,
) -> Float[Array, " batch"]:
    """Returns the log-likelihood of given completions, each behind its prompt.

    Args:
        model: any language model.
        params: its parameters.
        tokens: prompts and completions, padded on the right, with anything.
        starts: of each row, the length of the prompt: 1 or more.
        lengths: of prompt and completion.
        temperature: by which logits are divided.
        chunk: to how many tokens of each row the head is applied at once.
    """
    of_token = log_likelihoods(
        model, params, tokens, temperature=temperature, chunk=chunk
    )
    place = jnp.arange(tokens.shape[1])
    counts = (place >= starts[:, None]) & (place < lengths[:, None])
    return jnp.sum(of_token, axis=1, where=counts)


def log_likelihoods(
    model: LanguageModel,
    params: Params,
    tokens: Int[Array, "batch length"],
    *,
    temperature: float = 1.0,
    chunk: int = 64,
) -> Float[Array, "batch length"]:
    """Returns that of each token given those before it; 0 for the first.

    The arguments are those of `score`; there are never logits of more than
    `batch * chunk` tokens.
    """
    hidden, following = model.hidden(params, tokens[:, :-1]), tokens[:, 1:]
    length = following.shape[1]
    chunks = max(1, -(-length // chunk))
    size = -(-length // chunks)

    def split(x: Array) -> Array:
        pad = [(0, 0), (0, chunks * size - length), *[(0, 0)] * (x.ndim - 2)]
        x = jnp.pad(x, pad).reshape(x.shape[0], chunks, size, *x.shape[2:])
        return jnp.swapaxes(x, 0, 1)

    def likelihood(part: tuple[Array, Array]) -> Array:
        hidden, following = part
        logits = model.head(params, hidden)
        if temperature != 1:
            logits = logits / temperature
        at = jnp.take_along_axis(logits, following[..., None], axis=-1, mode="clip")
        return at[..., 0] - jax.nn.logsumexp(logits, axis=-1)

    parts = lax.map(likelihood, (split(hidden), split(following)))
    found = jnp.swapaxes(parts, 0, 1).reshape(tokens.shape[0], -1)[:, :length]
    return jnp.pad(found, ((0, 0), (1, 0)))
