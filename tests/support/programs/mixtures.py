"""Several networks in one: experts, adapters, ensembles, graphs."""

import jax
import jax.numpy as jnp
from jax import lax

import eggroll
from programs.registry import frozen, full, lost, low, program, unused


EXPERTS = {
    "router": low(7, 3),
    "up": low(3, 11, 13, stack=(0,)),
    "down": low(3, 13, 11, stack=(0,)),
}


@program(EXPERTS, (6, 11))
def experts_by_one_hot_with_a_capacity(p, x):
    """Tokens are sent to places of experts by products with zeros and ones."""
    gates = jax.nn.softmax(x[:, :7] @ p["router"])
    chosen = jax.nn.one_hot(jnp.argmax(gates, axis=1), 3)
    place = (jnp.cumsum(chosen, axis=0) - 1) * chosen
    sent = chosen[:, :, None] * jax.nn.one_hot(place.sum(1), 4)[:, None, :]
    inputs = jnp.einsum("tec,td->ecd", sent, x)
    h = jax.nn.relu(jnp.einsum("ecd,edf->ecf", inputs, p["up"]))
    out = jnp.einsum("ecf,efd->ecd", h, p["down"])
    return jnp.einsum("tec,ecd->td", sent * gates.max(1)[:, None, None], out)


@program(EXPERTS, (6, 11))
def two_experts_by_gather(p, x):
    top, chosen = lax.top_k(x[:, :7] @ p["router"], 2)
    h = jax.nn.relu(jnp.einsum("td,tkdf->tkf", x, p["up"][chosen]))
    out = jnp.einsum("tkf,tkfd->tkd", h, p["down"][chosen])
    return jnp.einsum("tk,tkd->td", jax.nn.softmax(top), out)


@program(
    EXPERTS,
    (6, 11),
)
def experts_by_ragged_dot(p, x):
    """Tokens sorted by their experts, as MaxText and Megablocks do it."""
    chosen = jnp.argmax(x[:, :7] @ p["router"], axis=1)
    order = jnp.argsort(chosen)
    sizes = jnp.bincount(chosen, length=3)
    h = jax.nn.relu(lax.ragged_dot(x[order], p["up"], sizes))
    out = lax.ragged_dot(h, p["down"], sizes)
    return jnp.zeros_like(x).at[order].set(out)


@program(
    {
        "slots": low(7, 3, 2, cols=(1, 2)),
        "up": low(3, 11, 13, stack=(0,)),
        "down": low(3, 13, 5, stack=(0,)),
    },
    (6, 11),
)
def soft_mixture_of_experts(p, x):
    logits = jnp.einsum("td,des->tes", x[:, :7], p["slots"])
    inputs = jnp.einsum("tes,td->esd", jax.nn.softmax(logits, axis=0), x)
    out = jax.vmap(lambda x, u, d: jax.nn.gelu(x @ u) @ d)(inputs, p["up"], p["down"])
    weights = jax.nn.softmax(logits.reshape(6, 6)).reshape(6, 3, 2)
    return jnp.einsum("tes,esd->td", weights, out)


@program(
    {"up": [low(11, 13) for _ in range(3)], "router": low(11, 3)},
    (5, 11),
)
def experts_by_a_switch_under_vmap(p, x):
    def one(x):
        branches = [lambda x, w=w: jnp.tanh(x @ w) for w in p["up"]]
        return lax.switch(jnp.argmax(x @ p["router"]), branches, x)

    return jax.vmap(one)(x)


@program(
    {"w": frozen(11, 13), "a": low(11, 2), "b": low(2, 13)},
    (5, 11),
    rules={"w": eggroll.frozen},
)
def adapter_beside_a_frozen_weight(p, x):
    return x @ p["w"] + 4.0 * (x @ p["a"]) @ p["b"]


@program(
    {"w": frozen(11, 13), "a": low(11, 3), "b": low(3, 13)},
    (5, 11),
    rules={"w": eggroll.frozen},
    quick=True,
)
def adapter_merged_into_a_frozen_weight(p, x):
    return x @ (p["w"] + p["a"] @ p["b"])


@program(
    {"w": low(11, 13), "a": low(4, 11, 2, stack=(0,)), "b": low(4, 2, 13, stack=(0,))},
    (jnp.linspace(-1, 1, 55).reshape(5, 11), jnp.array([0, 3, 3, 1, 2])),
)
def an_adapter_for_each_row(p, given):
    x, which = given
    inner = jnp.einsum("td,tdr->tr", x, p["a"][which])
    return x @ p["w"] + jnp.einsum("tr,trf->tf", inner, p["b"][which])


@program(
    {"w": low(4, 11, 13, cols=(0, 2)), "b": full(4, 13)}  # read by all: one product
    | {"v": low(4, 13, 7, stack=(0,))},
    (5, 11),
)
def ensemble_by_vmap(p, x):
    outs = jax.vmap(lambda p: jnp.tanh(x @ p["w"] + p["b"]) @ p["v"])(p)
    return jnp.mean(outs, axis=0), jnp.std(outs, axis=0)


@program(
    {"w": low(11, 13), "r": lost("mul", 3, 11, mean=1.0), "s": full(3, 13, mean=1.0)},
    (5, 11),
)
def batch_ensemble(p, x):
    """One weight, and for each network a vector before it and one behind.

    (What is outer here, x r, might be summed up to a product next: it is reported.)
    """
    return jax.vmap(lambda r, s: ((x * r) @ p["w"]) * s)(p["r"], p["s"])


EDGES = jnp.array([[0, 1, 2, 3, 0, 4], [1, 2, 0, 0, 3, 1]])


@program(
    {"message": low(11 + 11, 13), "update": low(11 + 13, 11), "out": low(11, 7)},
    (5, 11),
)
def graph_network_by_segment_sum(p, nodes):
    for _ in range(2):
        pairs = jnp.concatenate([nodes[EDGES[0]], nodes[EDGES[1]]], axis=1)
        messages = jax.nn.relu(pairs @ p["message"])
        met = jax.ops.segment_sum(messages, EDGES[1], 5)
        nodes = jnp.tanh(jnp.concatenate([nodes, met], axis=1) @ p["update"])
    return nodes.sum(0) @ p["out"]


@program({"w": low(11, 3, 7, cols=(1, 2)), "a": low(2, 3, 7, stack=(1,))}, (5, 11))
def graph_attention(p, nodes):
    h = jnp.einsum("nd,dhk->nhk", nodes, p["w"])
    ends = jnp.einsum("nhk,shk->snh", h, p["a"])
    scores = jax.nn.leaky_relu(ends[0][EDGES[0]] + ends[1][EDGES[1]])
    top = jax.ops.segment_max(scores, EDGES[1], 5)
    weights = jnp.exp(scores - top[EDGES[1]])
    total = jax.ops.segment_sum(weights, EDGES[1], 5)
    mixed = jax.ops.segment_sum(weights[..., None] * h[EDGES[0]], EDGES[1], 5)
    return mixed / (total[..., None] + 1e-6)


@program({"phi": low(3, 13), "psi": low(13, 11), "out": low(11, 7)}, (6, 3))
def set_network(p, points):
    h = jax.nn.relu(jax.nn.relu(points @ p["phi"]) @ p["psi"])
    return jnp.max(h, axis=0) @ p["out"]


@program({"phi": low(5, 13), "psi": full(13, 1), "feature": unused(2, 13)}, (4, 3))
def equivariant_graph_network(p, points):
    """Moves along the differences of positions, by a function of distances."""
    gaps = points[:, None] - points
    squares = jnp.sum(gaps**2, axis=-1, keepdims=True)
    features = jnp.concatenate([squares ** (k / 2 + 1) for k in range(5)], axis=-1)
    h = jnp.tanh(features @ p["phi"])
    return points + jnp.sum(gaps * jnp.tanh(h @ p["psi"]), axis=1)


@program(
    {"users": low(13, 5), "items": low(17, 5), "linear": full(17), "deep": low(10, 7)},
    (jnp.array([0, 12, 5]), jnp.array([[1, 2], [16, 16], [0, 3]])),
)
def factorisation_machine(p, given):
    """Bags of looked-up rows, their products, and a network on top."""
    users, bags = given
    user, items = p["users"][users], p["items"][bags].sum(1)
    wide = jnp.sum(user * items, -1) + p["linear"][bags].sum(1)
    return wide, jnp.tanh(jnp.concatenate([user, items], -1) @ p["deep"])
