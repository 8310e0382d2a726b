"""Transformers: blocks of attention, and how their layers are laid out."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import eggroll
from programs.registry import frozen, full, lost, low, program


def rms(x, scale=1.0):
    return x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * scale


def rotated(x):
    """Rotary embedding of (tokens, heads, pairs * 2)."""
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[0])[:, None, None] / 10.0 ** jnp.arange(half)
    a, b = x[..., :half], x[..., half:]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def causal(n, window=99):
    gap = jnp.arange(n)[:, None] - jnp.arange(n)
    return (gap >= 0) & (gap < window)


def attend(q, k, v, mask=None, cap=0.0, bias=0.0):
    """Attention of (tokens, heads, size)."""
    logits = jnp.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1]) + bias
    logits = cap * jnp.tanh(logits / cap) if cap else logits
    logits = logits if mask is None else jnp.where(mask, logits, -1e30)
    return jnp.einsum("hqk,khd->qhd", jax.nn.softmax(logits), v)


@program(
    {
        "q": low(13, 4, 6, cols=(1, 2)),
        "kv": low(13, 2, 2, 6, cols=(1, 2, 3)),
        "o": low(4, 6, 13),
    },
    (5, 13),
    quick=True,
)
def grouped_query_attention(p, x):
    q = rotated(jnp.einsum("td,dhk->thk", x, p["q"]))
    k, v = jnp.moveaxis(jnp.einsum("td,dnhk->tnhk", x, p["kv"]), 1, 0)
    k, v = (jnp.repeat(y, 2, axis=1) for y in (rotated(k), v))
    return jnp.einsum("qhd,hdm->qm", attend(q, k, v, causal(5)), p["o"])


@program(
    {
        "norms": full(2, 13, mean=1.0),
        "qkv": low(13, 3 * 26),
        "o": low(26, 13),
        "gate": low(13, 17),
        "up": low(13, 17),
        "down": low(17, 13),
    },
    (5, 13),
)
def rotary_swiglu_block(p, x):
    heads = lambda y: y.reshape(5, 2, 13)
    q, k, v = map(heads, jnp.split(rms(x, p["norms"][0]) @ p["qkv"], 3, axis=-1))
    q, k = rotated(q[..., :12]), rotated(k[..., :12])
    x = x + attend(q, k, v, causal(5)).reshape(5, 26) @ p["o"]
    h = rms(x, p["norms"][1])
    return x + (jax.nn.silu(h @ p["gate"]) * (h @ p["up"])) @ p["down"]


@program(
    {
        "q": low(2, 13, 22, stack=(0,)),
        "k": low(2, 13, 22, stack=(0,)),
        "v": low(2, 13, 22, stack=(0,)),
        "o": low(2, 22, 13, stack=(0,)),
        "norm": full(2, 13, mean=1.0),
    },
    (6, 13),
)
def sliding_window_attention_with_soft_caps(p, x):
    def layer(x, given):
        layer, window = given
        h = rms(x, layer["norm"])
        q, k, v = ((h @ layer[name]).reshape(6, 2, 11) for name in "qkv")
        gap = jnp.arange(6)[:, None] - jnp.arange(6)
        mask = (gap >= 0) & (gap < window)
        return x + attend(q, k, v, mask, cap=5.0).reshape(6, 22) @ layer["o"], None

    return lax.scan(layer, x, (p, jnp.array([2, 6])))[0]


@program(
    {
        "q": low(11, 2, 7, cols=(1, 2)),
        "kv": low(13, 2, 14, cols=(1, 2)),
        "o": low(2, 7, 11),
        "latents": lost("dot_general", 3, 11),  # a product of two leaves
    },
    (5, 13),
)
def latents_that_attend_to_data(p, x):
    q = jnp.einsum("td,dhk->thk", p["latents"], p["q"])
    k, v = jnp.split(jnp.einsum("td,dhk->thk", x, p["kv"]), 2, axis=-1)
    return p["latents"] + jnp.einsum("qhd,hdm->qm", attend(q, k, v), p["o"])


@program(
    {
        "down": low(13, 5),
        "up_k": low(5, 2, 7, stack=(1,)),
        "up_v": low(5, 2, 7, stack=(1,)),
        "q": low(13, 2, 7, cols=(1, 2)),
    },
    (4, 13),
)
def multi_head_latent_attention(p, x):
    """Keys are never made: the query is brought into the space of the latents."""
    latent = x @ p["down"]
    q = jnp.einsum("td,dhk,lhk->thl", x, p["q"], p["up_k"])
    logits = jnp.where(causal(4), jnp.einsum("qhl,kl->hqk", q, latent), -1e30)
    mixed = jnp.einsum("hqk,kl->qhl", jax.nn.softmax(logits), latent)
    return jnp.einsum("qhl,lhk->qhk", mixed, p["up_v"])


@program(
    {"bias": low(7, 2), "q": low(13, 22), "k": low(13, 22), "v": low(13, 22)},
    (5, 13),
)
def attention_with_relative_biases(p, x):
    """A table of biases, looked up by distance."""
    q, k, v = ((x @ p[name]).reshape(5, 2, 11) for name in "qkv")
    gap = jnp.clip(jnp.arange(5)[:, None] - jnp.arange(5) + 3, 0, 6)
    return attend(q, k, v, bias=jnp.moveaxis(p["bias"][gap], -1, 0))


@program({"q": low(13, 11), "k": low(13, 11), "v": low(13, 7)}, (5, 13))
def linear_attention(p, x):
    q, k = jax.nn.elu(x @ p["q"]) + 1, jax.nn.elu(x @ p["k"]) + 1
    states = jnp.cumsum(jnp.einsum("tk,tv->tkv", k, x @ p["v"]), axis=0)
    return jnp.einsum("tk,tkv->tv", q, states) / jnp.sum(
        q * jnp.cumsum(k, 0), -1, keepdims=True
    )


@program(
    {"embed": low(17, 11), "w": low(11, 11), "norm": full(11, mean=1.0)},
    jnp.array([3, 16, 0, 3]),
)
def tied_embedding(p, tokens):
    h = p["embed"][tokens] * np.sqrt(11)
    h = h + jnp.tanh(rms(h, p["norm"]) @ p["w"])
    return jax.nn.log_softmax(rms(h) @ p["embed"].T)


@program({"w": low(11, 17), "v": low(17, 11), "norms": full(3, 11, mean=1.0)}, (5, 11))
def one_block_thrice(p, x):
    for norm in p["norms"]:
        x = x + jax.nn.gelu(rms(x, norm) @ p["w"]) @ p["v"]
    return x


@program({"w": low(4, 11, 17, stack=(0,)), "v": low(4, 17, 11, stack=(0,))}, (5, 11))
def layers_scanned_in_pairs(p, x):
    """Local and global layers alternate, as one turn of the scan."""
    pairs = jax.tree.map(lambda w: w.reshape(2, 2, *w.shape[1:]), p)

    @jax.checkpoint
    def turn(x, pair):
        for i, act in enumerate((jnp.tanh, jax.nn.relu)):
            x = x + act(x @ pair["w"][i]) @ pair["v"][i]
        return x, jnp.mean(x)

    return lax.scan(turn, x, pairs)


@program([{"w": low(11, 17), "v": low(17, 11)} for _ in range(3)], (5, 11))
def layers_stacked_by_the_function(p, x):
    stacked = jax.tree.map(lambda *w: jnp.stack(w), *p)
    layer = lambda x, one: (x + jnp.tanh(x @ one["w"]) @ one["v"], None)
    return lax.scan(layer, x, stacked)[0]


@program(
    {
        "patch": low(2, 2, 3, 11),
        "token": full(1, 11),
        "positions": full(5, 11),
        "w": low(11, 11),
        "head": low(11, 7),
    },
    (1, 4, 4, 3),
)
def vision_transformer(p, image):
    dims = ("NHWC", "HWIO", "NHWC")
    patches = lax.conv_general_dilated(
        image, p["patch"], (2, 2), "VALID", dimension_numbers=dims
    )
    x = jnp.concatenate([p["token"], patches.reshape(4, 11)]) + p["positions"]
    x = x + jax.nn.softmax(x @ x.T) @ (x @ p["w"])
    return x[0] @ p["head"]


@program({"router": full(11, 1), "w": low(11, 11)}, (6, 11))
def mixture_of_depths(p, x):
    """Half of the tokens pass through the block, and return to their places."""
    scores = (x @ p["router"])[:, 0]
    top, chosen = lax.top_k(scores, 3)
    changed = jnp.tanh(x[chosen] @ p["w"]) * jax.nn.sigmoid(top)[:, None]
    return x.at[chosen].add(changed)


# (Members are in different layers at once, and have looked up those.)
@program(
    {"w": low(3, 11, 11, stack=(0,), is_met=True), "exit": low(11, 2)},
    (11,),
    quick=True,
)
def early_exit(p, x):
    def turn(carry):
        i, x = carry
        return i + 1, jnp.tanh(x @ p["w"][i])

    busy = lambda carry: (carry[0] < 3) & ((carry[1] @ p["exit"])[0] < 0.3)
    return lax.while_loop(busy, turn, (0, x))


@program(
    {"q": low(13, 22), "k": low(13, 22), "v": frozen(13, 22), "s": full(2)},
    (5, 13),
    rules={"v": eggroll.frozen},
)
def query_key_norm(p, x):
    q, k, v = ((x @ p[name]).reshape(5, 2, 11) for name in "qkv")
    q, k = rms(q), rms(k) * jnp.exp(p["s"])[:, None]
    return attend(q, k, v)
