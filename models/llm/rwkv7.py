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
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

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


States = State | tuple[State, ...]  # of all layers, or of each


@dataclasses.dataclass(frozen=True)
class RWKV7:
    """A causal language model (`models.llm.interface.LanguageModel`).

    Attributes:
        config: the sizes.
        unrolled: whether decoding, layers are compiled one by one instead of scanned,
            and the state is a tuple with one `State` a layer: slower to compile, faster
            to run, since a scan copies the whole state at every token, a population's
            several times; and equal.
    """

    config: RWKV7Config
    unrolled: bool = False

    def init(self, key: PRNGKeyArray, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws parameters; see `rwkv7_config.init`."""
        return init(self.config, key, dtype)

    def init_state(
        self, batch: int, length: int = 0, dtype: DTypeLike = jnp.float32
    ) -> States:
        """Returns the state of rows that have read nothing; see the interface.

        It takes the same room for any `length`, and S is float32 for any `dtype`.
        """
        c = self.config
        stack = () if self.unrolled else (c.layers,)
        last = jnp.zeros((*stack, batch, c.width), dtype)
        memory = (*stack, batch, c.heads, c.head_size, c.head_size)
        state = State(last, jnp.zeros(memory, jnp.float32), last)
        return (state,) * c.layers if self.unrolled else state

    def take(self, state: States, rows: Int[Array, " some"]) -> States:
        """Returns the state of some rows; see the interface."""
        axis = 0 if self.unrolled else 1
        return jax.tree.map(lambda x: jnp.take(x, rows, axis), state)

    def prefill(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        lengths: Int[Array, " batch"],
        state: States,
    ) -> tuple[Float[Array, "batch vocabulary"], States]:
        """Reads prompts, and whatever a state that has read before goes on with."""
        x, state = self._read(params, tokens, lengths, state)
        index = (lengths - 1)[:, None, None]
        last = jnp.take_along_axis(x, index, axis=1, mode="clip")[:, 0]
        return self.head(
            params, _norm(last, params["norm"], params["norm_bias"])
        ), state

    def decode(
        self, params: Params, token: Int[Array, " batch"], state: States
    ) -> tuple[Float[Array, "batch vocabulary"], States]:
        """Reads one more token of each row; see the interface."""
        x, state = self._read(params, token[:, None], None, state)
        last = _norm(x[:, 0], params["norm"], params["norm_bias"])
        return self.head(params, last), state

    def hidden(
        self, params: Params, tokens: Int[Array, "batch length"]
    ) -> Float[Array, "batch length width"]:
        """Returns what the head is applied to, at every token; see the interface."""
        state = self.init_state(tokens.shape[0], dtype=params["embed"].dtype)
        x, _ = self._read(params, tokens, None, state)
        return _norm(x, params["norm"], params["norm_bias"])

    def head(
        self, params: Params, hidden: Float[Array, "*rows width"]
    ) -> Float[Array, "*rows vocabulary"]:
        """Returns logits (float32); see the interface."""
        return jnp.matmul(hidden, params["head"], preferred_element_type=jnp.float32)

    def _read(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        lengths: Int[Array, " batch"] | None,
        state: States,
    ) -> tuple[Float[Array, "batch length width"], States]:
        """Returns the last layer's output; with `lengths` None every token counts."""

        def block(carry: tuple, of_layer: tuple) -> tuple[tuple, State]:
            (x, first), (layer, before, is_first) = carry, of_layer
            y = _norm(x, layer["time_norm"], layer["time_norm_bias"])
            shifted, time = _shift(y, before.time, lengths)
            mixed, memory, first = _time_mix(
                layer, y, shifted, before.memory, first, is_first, lengths
            )
            x = x + mixed
            y = _norm(x, layer["channel_norm"], layer["channel_norm_bias"])
            shifted, channel = _shift(y, before.channel, lengths)
            x = x + _channel_mix(layer, y, shifted)
            return (x, first), State(time, memory, channel)

        x = params["embed"].at[tokens].get(mode="clip")
        x = _norm(x, params["embed_norm"], params["embed_norm_bias"])
        carry, layers = (x, jnp.zeros_like(x)), range(self.config.layers)
        if not self.unrolled:
            is_first = jnp.arange(self.config.layers) == 0
            carry, state = lax.scan(block, carry, (params["layers"], state, is_first))
        elif lengths is None and tokens.shape[1] == 1:
            after = []
            for i in layers:
                layer = jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"])
                carry, one = block(carry, (layer, state[i], jnp.asarray(i == 0)))
                after.append(one)
            state = tuple(after)
        else:  # long enough to be worth a stack
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *state)
            scanned = dataclasses.replace(self, unrolled=False)
            x, stacked = scanned._read(params, tokens, lengths, stacked)
            return x, tuple(jax.tree.map(lambda x, i=i: x[i], stacked) for i in layers)
        return carry[0], state


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
    r, k, v = r @ p["r"], k @ p["k"], v @ p["v"]
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
    return (y * g) @ p["o"], memory, first


def _channel_mix(p: Params, x: Array, shifted: Array) -> Array:
    inner = jax.nn.relu((x + p["x_c"] * (shifted - x)) @ p["expand"])
    return (inner * inner) @ p["contract"]


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

    Products are summed as such, not by matrix multiplication: that rounds float32 to
    less on accelerators, and here errors add up over the text. Beyond its length a row
    keeps all, takes nothing out and writes nothing in, so that S stays to the bit.
    """
    if lengths is not None:
        real = jnp.arange(r.shape[1]) < lengths[:, None]
        real = real[:, :, None, None]
        kept = jnp.where(real, kept, 1)
        k, rate = (jnp.where(real, x, 0) for x in (k, rate))

    def step(s: Array, of_token: tuple) -> tuple[Array, Array]:
        r, kept, k, v, out, rate = of_token
        row = lambda x: x[..., None, :]
        removed = jnp.sum(s * row(out), -1)[..., None]
        s = s * row(kept) - removed * row(rate) + v[..., None] * row(k)
        return s, jnp.sum(s * row(r), -1)

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
