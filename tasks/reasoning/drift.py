"""How far a language model has gone from where it started."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from models.llm.interface import LanguageModel


@jax.jit
def distance(now: PyTree, start: PyTree) -> Float[Array, ""]:
    """Returns the Euclidean distance between parameters, over all of them together."""

    def square(a: Array, b: Array) -> Array:
        wide = jnp.promote_types(a.dtype, jnp.float32)
        return jnp.sum((a.astype(wide) - b.astype(wide)) ** 2)

    squares = jax.tree.leaves(jax.tree.map(square, now, start))
    return jnp.sqrt(jnp.sum(jnp.stack(squares)))


@functools.partial(jax.jit, static_argnames=("model", "together"))
def divergence(
    model: LanguageModel,
    now: PyTree,
    start: PyTree,
    tokens: Int[Array, "batch length"],
    counts: Bool[Array, "batch length"],
    *,
    together: int = 256,
) -> Float[Array, ""]:
    r"""Returns $\sum_t KL(\pi_{now} \Vert \pi_{start})$ over tokens, in nats.

    Each is that between the two models' distributions, over the whole vocabulary, of
    what follows the tokens before: `tokens` are read, not generated.

    Args:
        model: both are of it.
        now: parameters.
        start: parameters.
        tokens: of prompts and completions, padded.
        counts: which tokens' distributions count; never the first of a row.
        together: tokens whose logits are there at once, of both models.
    """
    read = tokens[:, :-1]
    parts = max(1, -(-read.size // together))
    size = -(-read.size // parts)

    def split(x: Array) -> Array:
        flat = x.reshape(-1, *x.shape[2:])
        pad = [(0, parts * size - read.size), *[(0, 0)] * (flat.ndim - 1)]
        return jnp.pad(flat, pad).reshape(parts, 1, size, *flat.shape[1:])

    def of(part: tuple[Array, Array, Array]) -> Array:
        *hidden, counted = part
        ours, theirs = (
            jax.nn.log_softmax(model.head(params, x).astype(jnp.float32), axis=-1)
            for params, x in zip((now, start), hidden, strict=True)
        )
        each = jnp.sum(jnp.exp(ours) * (ours - theirs), axis=-1)
        return jnp.sum(each, where=counted)

    ours, theirs = model.hidden(now, read), model.hidden(start, read)
    return jnp.sum(lax.map(of, (split(ours), split(theirs), split(counts[:, 1:]))))
