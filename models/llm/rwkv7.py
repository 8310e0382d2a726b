"""RWKV-7, a recurrent language model whose state does not grow with the text.

A block adds a time mix and a channel mix to the residual stream, each behind a layer
norm and given, beside x, the x of the token before. The time mix keeps for each head
a matrix S from keys to values, in float32, and changes it at every token,

    S ← S diag(w) - (S κ)(κ ⊙ a)ᵀ + v kᵀ,      y = S r,

where w is how much of each key's column stays, κ the direction that is taken out
(of length 1), a how much of it, and k and v are written in. w, a, the gate g and how
much of the first layer's values is mixed in come from two thin matrices each.

Layers are stacked and scanned. v0, v1, v2 mix in the first layer's values, in which
layer 0 itself has no say: there v_first is v, v + (v_first - v)·gate is v whatever
the gate, and the stack carries zeros that nothing depends on. So one program serves
all layers, at the price of evolving one thin pair of matrices for nothing.

References:
    Peng et al., "RWKV-7 Goose with expressive dynamic state evolution" (2025),
    https://arxiv.org/abs/2503.14456.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models.llm import int8
from models.llm.layers import layer_of, with_layer
from models.llm.rwkv7_config import RWKV7Config, init


Params = dict[str, Any]
DECAY = math.exp(-0.5)  # of what is kept a step takes off at most exp(-DECAY)
NORM_EPS, HEAD_EPS, KEY_EPS = 1e-5, 64e-5, 1e-12


class State(NamedTuple):
    """What is remembered of a text, for each layer and row (or of one layer).

    Attributes:
        time: the normed x of the last token, into the time mix.
        memory: the matrices S, from keys (columns) to values (rows).
        channel: the normed x of the last token, into the channel mix.
    """

    time: Float[Array, "*layers batch width"]
    memory: Float[Array, "*layers batch heads size size"]
    channel: Float[Array, "*layers batch width"]


@dataclasses.dataclass(frozen=True)
class RWKV7:
    """A causal language model (`models.llm.interface.LanguageModel`).

    Attributes:
        config: the sizes.
        unrolled: whether layers are compiled one by one instead of scanned: slower to
            compile, and equal.
    """

    config: RWKV7Config
    unrolled: bool = False

    def init(self, key: PRNGKeyArray, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws parameters; see `rwkv7_config.init`."""
        return init(self.config, key, dtype)

    def init_state(
        self, batch: int, length: int = 0, dtype: DTypeLike = jnp.float32
    ) -> State:
        """Returns the state of rows that have read nothing; see the interface.

        It takes the same room for any `length`, and S is float32 for any `dtype`.
        """
        c = self.config
        last = jnp.zeros((c.layers, batch, c.width), dtype)
        memory = (c.layers, batch, c.heads, c.head_size, c.head_size)
        return State(last, jnp.zeros(memory, jnp.float32), last)

    def take(self, state: State, rows: Int[Array, " some"]) -> State:
        """Returns the state of some rows; see the interface."""
        return jax.tree.map(lambda x: jnp.take(x, rows, axis=1), state)

    def prefill(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        lengths: Int[Array, " batch"],
        state: State,
    ) -> tuple[Float[Array, "batch vocabulary"], State]:
        """Reads prompts, and whatever a state that has read before goes on with."""
        x, state = self._read(params, tokens, lengths, state)
        index = (lengths - 1)[:, None, None]
        last = jnp.take_along_axis(x, index, axis=1, mode="clip")[:, 0]
        return self.head(
            params, _norm(last, params["norm"], params["norm_bias"])
        ), state

    def decode(
        self, params: Params, token: Int[Array, " batch"], state: State
    ) -> tuple[Float[Array, "batch vocabulary"], State]:
        """Reads one more token of each row; see the interface."""
        x, state = self._read(params, token[:, None], None, state)
        last = _norm(x[:, 0], params["norm"], params["norm_bias"])
        return self.head(params, last), state

    def hidden(
        self, params: Params, tokens: Int[Array, "batch length"]
    ) -> Float[Array, "batch length width"]:
        """Returns what the head is applied to, at every token; see the interface."""
        state = self.init_state(tokens.shape[0], dtype=params["embed_norm"].dtype)
        x, _ = self._read(params, tokens, None, state)
        return _norm(x, params["norm"], params["norm_bias"])

    def head(
        self, params: Params, hidden: Float[Array, "*rows width"]
    ) -> Float[Array, "*rows vocabulary"]:
        """Returns logits (float32); see the interface."""
        return int8.logits(hidden, params["head"])

    def _read(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        lengths: Int[Array, " batch"] | None,
        state: State,
    ) -> tuple[Float[Array, "batch length width"], State]:
        """Returns the last layer's output; with `lengths` None every token counts."""

        def scanned(carry: tuple, of_layer: tuple) -> tuple[tuple, State]:
            (x, first), (i, layer, before) = carry, of_layer
            x, first, after = _block(layer, x, first, i == 0, before, lengths)
            return (x, first), after

        # For a single token, the state is looked up and written back: to be scanned, it
        # would be copied, and under `jax.vmap`, which puts members first, transposed.
        def looked_up(carry: tuple, of_layer: tuple) -> tuple[tuple, None]:
            (x, first, state), (i, layer) = carry, of_layer
            before = jax.tree.map(lambda stack: layer_of(stack, i), state)
            x, first, after = _block(layer, x, first, i == 0, before, lengths)
            state = jax.tree.map(lambda old, new: with_layer(old, new, i), state, after)
            return (x, first, state), None

        x = int8.rows(params["embed"], tokens)
        x = _norm(x, params["embed_norm"], params["embed_norm_bias"])
        carry, layers = (x, jnp.zeros_like(x)), jnp.arange(self.config.layers)
        run = functools.partial(lax.scan, unroll=self.unrolled)
        if tokens.shape[1] == 1:
            carry, _ = run(looked_up, (*carry, state), (layers, params["layers"]))
            return carry[0], carry[2]
        carry, state = run(scanned, carry, (layers, params["layers"], state))
        return carry[0], state


def _block(
    layer: Params,
    x: Float[Array, "batch length width"],
    first: Float[Array, "batch length width"],
    is_first: Bool[Array, ""],
    before: State,
    lengths: Int[Array, " batch"] | None,
) -> tuple[Array, Array, State]:
    """Returns the stream after a block, the first layer's values, and its state."""
    y = _norm(x, layer["time_norm"], layer["time_norm_bias"])
    shifted, time = _shift(y, before.time, lengths)
    mixed, memory, first = _time_mix(
        layer, y, shifted, before.memory, first, is_first, lengths
    )
    x = x + mixed
    y = _norm(x, layer["channel_norm"], layer["channel_norm_bias"])
    shifted, channel = _shift(y, before.channel, lengths)
    return x + _channel_mix(layer, y, shifted), first, State(time, memory, channel)


def _time_mix(
    p: Params,
    x: Float[Array, "batch length width"],
    shifted: Float[Array, "batch length width"],
    memory: Float[Array, "batch heads size size"],
    first: Float[Array, "batch length width"],
    is_first: Bool[Array, ""],
    lengths: Int[Array, " batch"] | None,
) -> tuple[Array, Array, Array]:
    """Returns the output, the matrices S after it, and the first layer's values."""
    r, w, k, v, a, g = (x + p[f"x_{name}"] * (shifted - x) for name in "rwkvag")
    mix = jax.nn.sigmoid(p["v0"] + (v @ p["v1"]) @ p["v2"])
    r, k, v = (int8.matmul(x, p[n]) for x, n in ((r, "r"), (k, "k"), (v, "v")))
    w = p["w0"] + jnp.tanh(w @ p["w1"]) @ p["w2"]
    a = jax.nn.sigmoid(p["a0"] + (a @ p["a1"]) @ p["a2"])
    g = jax.nn.sigmoid(g @ p["g1"]) @ p["g2"]
    first = jnp.where(is_first, v, first)
    v = v + (first - v) * mix

    heads, size = memory.shape[1:3]
    apart = lambda y: y.reshape(*y.shape[:2], heads, size).astype(jnp.float32)
    out = apart(k * p["k_k"])
    length = jnp.sqrt(jnp.sum(out * out, -1, keepdims=True))
    out = out / jnp.maximum(length, KEY_EPS)
    k = k * (1 + (a - 1) * p["k_a"])
    kept = jnp.exp(-DECAY * jax.nn.sigmoid(apart(w)))
    y, memory = _recur(
        apart(r), kept, apart(k), apart(v), out, out * apart(a), memory, lengths
    )

    y = _standardised(y, HEAD_EPS).reshape(x.shape)
    y = (y * p["head_norm"] + p["head_norm_bias"]).astype(x.dtype)
    own = jnp.sum(apart(r * k * p["r_k"]), -1, keepdims=True) * apart(v)
    y = y + own.reshape(x.shape).astype(x.dtype)
    return int8.matmul(y * g, p["o"]), memory, first


def _channel_mix(p: Params, x: Array, shifted: Array) -> Array:
    inner = jax.nn.relu(int8.matmul(x + p["x_c"] * (shifted - x), p["expand"]))
    return int8.matmul(inner * inner, p["contract"])


def _recur(
    r: Float[Array, "batch length heads size"],
    kept: Float[Array, "batch length heads size"],
    k: Float[Array, "batch length heads size"],
    v: Float[Array, "batch length heads size"],
    out: Float[Array, "batch length heads size"],
    rate: Float[Array, "batch length heads size"],
    memory: Float[Array, "batch heads size size"],
    lengths: Int[Array, " batch"] | None,
) -> tuple[Float[Array, "batch length heads size"], Array]:
    """Runs S ← S diag(kept) - (S out) rateᵀ + v kᵀ and y = S r over the tokens.

    Products are of full float32, on accelerators too: here errors add up over the text.
    Beyond its length a row
    keeps all, takes nothing out and writes nothing in, so that S stays to the bit.
    """
    if lengths is not None:
        real = jnp.arange(r.shape[1]) < lengths[:, None]
        real = real[:, :, None, None]
        kept = jnp.where(real, kept, 1)
        k, rate = (jnp.where(real, x, 0) for x in (k, rate))

    # Both products with the S before, in one pass: S' r is S (kept ⊙ r) and what is
    # taken out and written in, and nothing reads S once it begins to change.
    def step(s: Array, of_token: tuple) -> tuple[Array, Array]:
        r, kept, k, v, out, rate = of_token
        sides = jnp.stack([out, kept * r], axis=-1)
        found = jnp.einsum("bhvk,bhkn->bhvn", s, sides, precision=lax.Precision.HIGHEST)
        removed, y = found[..., 0], found[..., 1]
        inner = lambda x: jnp.sum(x * r, -1, keepdims=True)
        row, column = lambda x: x[..., None, :], lambda x: x[..., None]
        s = s * row(kept) - column(removed) * row(rate) + column(v) * row(k)
        return s, y - removed * inner(rate) + v * inner(k)

    inputs = (r, kept, k, v, out, rate)
    if r.shape[1] == 1:
        memory, y = step(memory, tuple(x[:, 0] for x in inputs))
        return y[:, None], memory
    memory, y = lax.scan(step, memory, tuple(jnp.moveaxis(x, 1, 0) for x in inputs))
    return jnp.moveaxis(y, 0, 1), memory


def _shift(
    x: Float[Array, "batch length width"],
    before: Float[Array, "batch width"],
    lengths: Int[Array, " batch"] | None,
) -> tuple[Float[Array, "batch length width"], Float[Array, "batch width"]]:
    """Returns the x of the token before each, and that of each row's last token."""
    x = jnp.concatenate([before[:, None], x], axis=1)
    if lengths is None:
        return x[:, :-1], x[:, -1]
    return x[:, :-1], jnp.take_along_axis(x, lengths[:, None, None], axis=1)[:, 0]


def _standardised(x: Float[Array, "... features"], eps: float) -> Array:
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, -1, keepdims=True)
    return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)


def _norm(x: Array, scale: Array, bias: Array) -> Array:
    return (_standardised(x, NORM_EPS) * scale + bias).astype(x.dtype)
