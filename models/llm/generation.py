"""Completes prompts with any language model, in one program.

`generate` is a pure function of the parameters, so that a population generates under
`eggroll.EvolutionStrategy.ask` as one model does. It stops when all rows have ended;
under `jax.vmap`, when those of all members have.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from models.llm.interface import LanguageModel, Params


class Completions(NamedTuple):
    """What was generated.

    Attributes:
        tokens: of each row's completion, the end token included; then zeros.
        lengths: how many they are.
        ended: whether an end token came before there was no room for more.
    """

    tokens: Int[Array, "batch new_tokens"]
    lengths: Int[Array, " batch"]
    ended: Bool[Array, " batch"]


class Sampling(NamedTuple):
    """How the next token is chosen.

    Attributes:
        temperature: by which logits are divided; 0 takes the most likely token.
        top_p: only the fewest tokens whose probabilities (at that temperature) add up
            to this are drawn from, and what is as likely as the last of them.
    """

    temperature: float = 0.0
    top_p: float = 1.0


GREEDY = Sampling()


class _Rows(NamedTuple):
    """Rows on their way: those that are left of the batch.

    Attributes:
        row: of the batch.
        token: that is to be read next.
        state: of the model, without it.
        done: the completions, as far as they go.
    """

    row: Int[Array, " rows"]
    token: Int[Array, " rows"]
    state: PyTree
    done: Completions


def generate(
    model: LanguageModel,
    params: Params,
    prompts: Int[Array, "batch length"],
    lengths: Int[Array, " batch"],
    *,
    new_tokens: int,
    end_tokens: Sequence[int] | None = None,
    sampling: Sampling = GREEDY,
    key: PRNGKeyArray | None = None,
    halvings: int = 0,
) -> Completions:
    """Completes prompts, all rows at once.

    Args:
        model: any language model.
        params: its parameters.
        prompts: padded on the right, with anything.
        lengths: how many tokens of each row are prompt: 1 or more.
        new_tokens: the most tokens of a completion.
        end_tokens: each of which ends a completion; None for those of the model.
        sampling: how tokens are chosen: by default the most likely.
        key: for sampling at a temperature. What a row draws depends on the key and on
            its place in the batch alone.
        halvings: how often the rows that are left are gathered in a batch of half the
            size, once they fit: later tokens cost less where completions differ in
            length, and each time the program is a loop longer.

    Raises:
        ValueError: if a key is missing, or there is no room for prompt and completion.
    """
    _check(model, prompts, new_tokens, sampling, key)
    batch, length = prompts.shape
    ends = model.config.end_tokens if end_tokens is None else tuple(end_tokens)
    # The last token is chosen, not read.
    empty = model.init_state(batch, length + new_tokens - 1, dtype_of(params))
    logits, state = model.prefill(params, prompts, lengths, empty)
    every = Completions(
        tokens=jnp.zeros((batch, new_tokens), jnp.int32),
        lengths=jnp.zeros(batch, jnp.int32),
        ended=jnp.zeros(batch, bool),
    )
    row = jnp.arange(batch)

    def choose(logits: Array, rows: _Rows, step: Array | int) -> _Rows:
        token = _choose(logits, rows.row, step, sampling, key)
        return rows._replace(token=token, done=_appended(rows.done, token, step, ends))

    def advance(carry: tuple[Array, _Rows]) -> tuple[Array, _Rows]:
        step, rows = carry
        logits, state = model.decode(params, rows.token, rows.state)
        return step + 1, choose(logits, rows._replace(state=state), step)

    start = (jnp.int32(1), choose(logits, _Rows(row, row, state, every), 0))
    return _completed(model, advance, start, every, halvings)


def _completed(
    model: LanguageModel,
    advance: Callable[[tuple[Array, _Rows]], tuple[Array, _Rows]],
    start: tuple[Array, _Rows],
    every: Completions,
    halvings: int,
) -> Completions:
    """Advances rows to their ends, in batches that are halved; returns all of them."""
    (batch, new_tokens), (step, rows) = every.tokens.shape, start

    def proceed(carry: tuple[Array, _Rows], few: int) -> Array:
        step, rows = carry
        return (step < new_tokens) & (_most(jnp.sum(~rows.done.ended)) > few)

    sizes = [batch >> i for i in range(halvings + 1) if batch >> i]
    for size, few in zip(sizes, [*sizes[1:], 0], strict=True):
        if size < batch:
            left = jnp.argsort(rows.done.ended, stable=True)[:size]
            rows = _taken(model, rows, left)
        more = functools.partial(proceed, few=few)
        step, rows = lax.while_loop(more, advance, (step, rows))
        at = rows.row
        every = jax.tree.map(lambda x, new, at=at: x.at[at].set(new), every, rows.done)
    return every


def dtype_of(params: Params) -> np.dtype:
    """Returns the dtype that a model of these parameters computes in."""
    return jnp.result_type(*jax.tree.leaves(params))


def nucleus(logits: Float[Array, "*rows n"], top_p: float) -> Bool[Array, "*rows n"]:
    """Returns which tokens are the fewest with a probability of `top_p` in all.

    They are those at least as likely as a threshold, which is found by bisection: among
    floats above zero, as among their bits, without sorting the vocabulary.
    """
    probability = jax.nn.softmax(logits, axis=-1)
    bits = lax.bitcast_convert_type(probability, jnp.int32)
    # The threshold is at least `low`, and below `high`.
    low = jnp.zeros((*logits.shape[:-1], 1), jnp.int32)
    high = jnp.full_like(low, np.float32(1.0).view(np.int32) + 1)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        mass = jnp.sum(probability, axis=-1, keepdims=True, where=bits >= middle)
        return jnp.where(mass >= top_p, middle, low), jnp.where(
            mass >= top_p, high, middle
        )

    low, _ = lax.fori_loop(0, 30, halve, (low, high))
    return bits >= low


def _choose(
    logits: Float[Array, "rows vocabulary"],
    row: Int[Array, " rows"],
    step: Array | int,
    sampling: Sampling,
    key: PRNGKeyArray | None,
) -> Int[Array, " rows"]:
    if key is None or not sampling.temperature:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / sampling.temperature
    if sampling.top_p < 1:
        logits = jnp.where(nucleus(logits, sampling.top_p), logits, -jnp.inf)
    of_step = jax.random.fold_in(key, step)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(of_step, row)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def _appended(
    done: Completions, token: Array, step: Array | int, ends: Sequence[int]
) -> Completions:
    """Adds a token to the completions that have not ended."""
    token = jnp.where(done.ended, 0, token)
    tokens = lax.dynamic_update_slice(done.tokens, token[:, None], (0, step))
    is_end = jnp.isin(token, jnp.asarray(ends, jnp.int32)) if ends else False
    return Completions(
        tokens=tokens,
        lengths=done.lengths + ~done.ended,
        ended=done.ended | is_end,
    )


def _taken(model: LanguageModel, rows: _Rows, index: Int[Array, " some"]) -> _Rows:
    state = model.take(rows.state, index)
    rest = jax.tree.map(lambda x: x[index], rows._replace(state=None))
    return rest._replace(state=state)


@jax.custom_batching.custom_vmap
def _most(count: Int[Array, ""]) -> Int[Array, ""]:
    """The count; under `jax.vmap`, the most of all members'.

    All stop together. (If each stopped on its own, `jax.vmap` would select the whole
    state of each member at every turn: what goes on, or what has stopped.)
    """
    return count


@_most.def_vmap
def _(size: int, batched: list[bool], count: Array) -> tuple[Array, bool]:
    del size, batched
    return _most(jnp.max(count)), False


def _check(
    model: LanguageModel,
    prompts: Array,
    new_tokens: int,
    sampling: Sampling,
    key: PRNGKeyArray | None,
) -> None:
    if sampling.temperature < 0 or not 0 < sampling.top_p <= 1:
        raise ValueError(f"Need temperature >= 0 and 0 < top_p <= 1, got {sampling}.")
    if sampling.temperature and key is None:
        raise ValueError("Sampling at a temperature needs a random key: give key=.")
    length, context = prompts.shape[1], model.config.context
    if new_tokens < 1 or length + new_tokens > context:
        raise ValueError(
            f"Prompts of {length} tokens and completions of {new_tokens} do not fit a "
            f"context of {context}: shorten the prompts, or ask for fewer new tokens."
        )
