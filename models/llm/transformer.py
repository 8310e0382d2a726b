"""The Transformer of Llama 3, Qwen2 and Qwen3: what differs is in the configuration.

Blocks of grouped-query attention (arXiv 2305.13245) and of a gated MLP (SwiGLU,
2002.05202), each behind an RMSNorm (1910.07467) and a residual:
`x += attention(norm(x)); x += mlp(norm(x))`. Layers are stacked and scanned.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models.llm import int8
from models.llm.config import TransformerConfig
from models.llm.layers import layer_of
from models.llm.rope import Angles, angles_of, rotate


Params = dict[str, Any]
SCORES = 2**20  # of queries and keys, held at once for each head and row


class Cache(NamedTuple):
    """What has been read: keys and values, in slots that all rows share.

    A prompt fills the first slots of its row as far as it reaches, and every later
    token the next slot of all rows: slots are no positions.

    Attributes:
        keys: rotated already.
        values: beside them.
        filled: which slots of each row hold a token.
        positions: of the next token of each row, in tokens.
        slot: that the next token fills.
    """

    keys: Float[Array, "layers batch kv_heads slots head_dim"]
    values: Float[Array, "layers batch kv_heads slots head_dim"]
    filled: Bool[Array, "batch slots"]
    positions: Int[Array, " batch"]
    slot: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Transformer:
    """A causal language model (`models.llm.interface.LanguageModel`).

    Attributes:
        config: sizes and options.
        unrolled: whether layers are compiled one by one instead of scanned: slower to
            compile, and equal.
    """

    config: TransformerConfig
    unrolled: bool = False

    def init(self, key: PRNGKeyArray, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws weights of variance 1/inputs (the embedding: 1), ones and zeros."""
        c, (embed, head, layers) = self.config, jax.random.split(key, 3)
        params = {
            "embed": jax.random.normal(embed, (c.vocabulary, c.width), dtype),
            "layers": self._init_layers(layers, dtype),
            "norm": jnp.ones(c.width, dtype),
        }
        if not c.tied:
            params["head"] = _matrix(head, (c.width, c.vocabulary), dtype)
        return params

    def _init_layers(self, key: PRNGKeyArray, dtype: DTypeLike) -> Params:
        c = self.config
        queries, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim
        shapes = {
            "q": (c.width, queries),
            "k": (c.width, keys),
            "v": (c.width, keys),
            "o": (queries, c.width),
            "gate": (c.width, c.feedforward),
            "up": (c.width, c.feedforward),
            "down": (c.feedforward, c.width),
        }
        draws = zip(shapes, jax.random.split(key, len(shapes)), strict=True)
        params = {
            name: _matrix(one, (c.layers, *shapes[name]), dtype) for name, one in draws
        }
        biased = [*"qkv"] * c.attention_bias + ["o"] * c.output_bias
        for name in biased + ["gate", "up", "down"] * c.mlp_bias:
            params[f"{name}_bias"] = jnp.zeros((c.layers, shapes[name][1]), dtype)
        for name in ("attention_norm", "mlp_norm"):
            params[name] = jnp.ones((c.layers, c.width), dtype)
        for name in ("q_norm", "k_norm") if c.qk_norm else ():
            params[name] = jnp.ones((c.layers, c.head_dim), dtype)
        return params

    def init_state(
        self, batch: int, length: int, dtype: DTypeLike = jnp.float32
    ) -> Cache:
        """Returns the cache of rows that have read nothing; see the interface."""
        c = self.config
        empty = jnp.zeros((c.layers, batch, c.kv_heads, length, c.head_dim), dtype)
        return Cache(
            keys=empty,
            values=empty,
            filled=jnp.zeros((batch, length), bool),
            positions=jnp.zeros(batch, jnp.int32),
            slot=jnp.int32(0),
        )

    def prefill(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        lengths: Int[Array, " batch"],
        state: Cache,
    ) -> tuple[Float[Array, "batch vocabulary"], Cache]:
        """Reads whole prompts; see the interface."""
        x, (keys, values) = self._read(params, tokens)
        index = (lengths - 1)[:, None, None]
        last = jnp.take_along_axis(x, index, axis=1, mode="clip")[:, 0]
        write = lambda cache, new: lax.dynamic_update_slice(
            cache, new.astype(cache.dtype), (0,) * cache.ndim
        )
        slots = jnp.arange(state.filled.shape[1])
        state = Cache(
            keys=write(state.keys, keys),
            values=write(state.values, values),
            filled=slots < lengths[:, None],
            positions=lengths.astype(jnp.int32),
            slot=jnp.int32(tokens.shape[1]),
        )
        return self.head(params, self._norm(last, params["norm"])), state

    def decode(
        self, params: Params, token: Int[Array, " batch"], state: Cache
    ) -> tuple[Float[Array, "batch vocabulary"], Cache]:
        """Reads one more token of each row; see the interface."""
        angles = self._angles(state.positions)

        # The cache is looked up, not scanned: under `jax.vmap` its dimension of members
        # is the first, and to be scanned it would be transposed for every token.
        def layer(x, at):
            i, weights = at
            keys, values = layer_of(state.keys, i), layer_of(state.values, i)
            q, k, v = self._queries(x, weights, angles)
            mixed = _attend_cached(q, k, v, keys, values, state.filled)
            return self._rest(x, mixed, weights), (k, v)

        layers = (jnp.arange(self.config.layers), params["layers"])
        x = self._embed(params, token)
        x, (k, v) = lax.scan(layer, x, layers, unroll=self.unrolled)
        # All layers' at once, after the loop: nothing of the cache is copied within.
        write = lambda cache, new: lax.dynamic_update_slice_in_dim(
            cache, new[..., None, :].astype(cache.dtype), state.slot, axis=3
        )
        at_slot = jnp.arange(state.filled.shape[1]) == state.slot
        state = Cache(
            keys=write(state.keys, k),
            values=write(state.values, v),
            filled=state.filled | at_slot,
            positions=state.positions + 1,
            slot=state.slot + 1,
        )
        return self.head(params, self._norm(x, params["norm"])), state

    def take(self, state: Cache, rows: Int[Array, " some"]) -> Cache:
        """Returns the cache of some rows; see the interface."""
        return Cache(
            keys=state.keys[:, rows],
            values=state.values[:, rows],
            filled=state.filled[rows],
            positions=state.positions[rows],
            slot=state.slot,
        )

    def hidden(
        self, params: Params, tokens: Int[Array, "batch length"]
    ) -> Float[Array, "batch length width"]:
        """Returns what the head is applied to, at every token; see the interface."""
        return self._norm(self._read(params, tokens)[0], params["norm"])

    def head(
        self, params: Params, hidden: Float[Array, "*rows width"]
    ) -> Float[Array, "*rows vocabulary"]:
        """Returns logits (float32); see the interface."""
        tied = "head" not in params
        return int8.logits(hidden, params["embed" if tied else "head"], tied=tied)

    def _read(self, params: Params, tokens: Array) -> tuple[Array, tuple[Array, Array]]:
        """Returns the last layer's output at every token, and the keys and values."""
        angles = self._angles(jnp.arange(tokens.shape[1]))

        def layer(x, weights):
            q, k, v = self._queries(x, weights, angles)
            mixed = _attend_causally(q, k, v)
            kept = (jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2))
            return self._rest(x, mixed, weights), kept

        x = self._embed(params, tokens)
        return lax.scan(layer, x, params["layers"], unroll=self.unrolled)

    def _embed(self, params: Params, tokens: Array) -> Array:
        return int8.rows(params["embed"], tokens)

    def _queries(
        self, x: Float[Array, "*rows width"], weights: Params, angles: Angles
    ) -> tuple[Array, Array, Array]:
        """Returns queries (*rows kv_heads group head_dim), keys and values."""
        c = self.config
        y = self._norm(x, weights["attention_norm"])
        q, k, v = (_linear(y, weights, name) for name in "qkv")
        q = q.reshape(*x.shape[:-1], c.heads, c.head_dim)
        k, v = (a.reshape(*x.shape[:-1], c.kv_heads, c.head_dim) for a in (k, v))
        if c.qk_norm:
            q = self._norm(q, weights["q_norm"])
            k = self._norm(k, weights["k_norm"])
        group = c.heads // c.kv_heads
        q = rotate(q, angles).reshape(*x.shape[:-1], c.kv_heads, group, c.head_dim)
        return q, rotate(k, angles), v

    def _angles(self, positions: Int[Array, "*rows"]) -> Angles:
        return angles_of(positions, self.config.rope, self.config.head_dim)

    def _rest(self, x: Array, mixed: Array, weights: Params) -> Array:
        """All of a block that follows attention."""
        mixed = mixed.reshape(*x.shape[:-1], -1)
        x = x + _linear(mixed, weights, "o").astype(x.dtype)
        y = self._norm(x, weights["mlp_norm"])
        gate, up = _linear(y, weights, "gate"), _linear(y, weights, "up")
        # silu(gate) * up; the division comes last, as a dear operation that compilers
        # do once, where a product would be done again for each that reads it.
        y = _linear(gate * up / (1 + jnp.exp(-gate)), weights, "down")
        return x + y.astype(x.dtype)

    def _norm(self, x: Float[Array, "*rows n"], weight: Float[Array, " n"]) -> Array:
        wide = x.astype(jnp.float32)
        square = jnp.mean(wide * wide, axis=-1, keepdims=True)
        normed = wide * lax.rsqrt(square + self.config.norm_eps)
        return weight * normed.astype(x.dtype)


def _matrix(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    return jax.random.normal(key, shape, dtype) * jnp.asarray(shape[-2] ** -0.5, dtype)


def _linear(x: Array, weights: Params, name: str) -> Array:
    y, bias = int8.matmul(x, weights[name]), weights.get(f"{name}_bias")
    return y if bias is None else y + bias


def _softmax(scores: Array, mask: Array, head_dim: int) -> Array:
    return jax.nn.softmax(jnp.where(mask, scores * head_dim**-0.5, -jnp.inf), axis=-1)


def _attend_causally(q: Array, k: Array, v: Array) -> Array:
    """Every token sees itself and those before it: (batch length kv group head_dim).

    Long rows take some queries at a time, so that no more than `SCORES` scores of a
    head and row are held at once; each block scores all keys, those ahead in vain.
    """
    length, head_dim = q.shape[1], q.shape[-1]
    wide = dict(preferred_element_type=jnp.float32)

    def attend(q: Array, places: Array) -> Array:
        scores = jnp.einsum("bqkgd,bskd->bkgqs", q, k, **wide)
        mask = jnp.arange(length) <= places[:, None]
        weights = _softmax(scores, mask, head_dim).astype(v.dtype)
        return jnp.einsum("bkgqs,bskd->bqkgd", weights, v)

    blocks = -(-length // max(1, SCORES // length))
    if blocks == 1:
        return attend(q, jnp.arange(length))
    size = -(-length // blocks)
    q = jnp.pad(q, [(0, 0), (0, blocks * size - length), *[(0, 0)] * 3])
    q = jnp.moveaxis(q.reshape(q.shape[0], blocks, size, *q.shape[2:]), 1, 0)
    places = jnp.arange(blocks * size).reshape(blocks, size)
    mixed = lax.map(lambda block: attend(*block), (q, places))
    mixed = jnp.moveaxis(mixed, 0, 1)
    return mixed.reshape(mixed.shape[0], -1, *mixed.shape[3:])[:, :length]


def _attend_cached(
    q: Float[Array, "batch kv group head_dim"],
    k: Float[Array, "batch kv head_dim"],
    v: Float[Array, "batch kv head_dim"],
    keys: Float[Array, "batch kv slots head_dim"],
    values: Float[Array, "batch kv slots head_dim"],
    filled: Bool[Array, "batch slots"],
) -> Float[Array, "batch kv group head_dim"]:
    """A new token sees the cache, and itself beside it."""
    wide = dict(preferred_element_type=jnp.float32)
    before = jnp.einsum("bkgd,bksd->bkgs", q, keys, **wide)
    itself = jnp.einsum("bkgd,bkd->bkg", q, k, **wide)[..., None]
    mask = jnp.pad(filled, ((0, 0), (0, 1)), constant_values=True)[:, None, None]
    scores = jnp.concatenate([before, itself], axis=-1)
    weights = _softmax(scores, mask, q.shape[-1]).astype(v.dtype)
    mixed = jnp.einsum("bkgs,bksd->bkgd", weights[..., :-1], values)
    return mixed + weights[..., -1:] * v[:, :, None]
