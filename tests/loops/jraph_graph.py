"""A graph network: jraph's message passing, Haiku's layers."""

import haiku as hk
import jax
import jax.numpy as jnp
import jraph
import numpy as np
import optax


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(256, sigma=0.03), jax.random.key(0)

IMPROVES = 0.05
RANDOM = np.random.default_rng(0)
EDGES = RANDOM.integers(0, 12, (2, 30))
GRAPH = jraph.GraphsTuple(
    nodes=jnp.asarray(RANDOM.normal(size=(12, 3)), jnp.float32),
    edges=jnp.ones((30, 1)),
    senders=jnp.asarray(EDGES[0]),
    receivers=jnp.asarray(EDGES[1]),
    n_node=jnp.array([12]),
    n_edge=jnp.array([30]),
    globals=jnp.zeros((1, 1)),
)
# which nodes hear more than they are
HEARD = jax.ops.segment_sum(GRAPH.nodes[GRAPH.senders], GRAPH.receivers, 12)
LABELS = (HEARD.sum(axis=1) > GRAPH.nodes.sum(axis=1)).astype(jnp.int32)


@hk.without_apply_rng
@hk.transform
def network(graph):
    edges = jraph.concatenated_args(lambda x: jax.nn.relu(hk.Linear(6)(x)))
    nodes = jraph.concatenated_args(lambda x: hk.Linear(2)(x))
    return jraph.GraphNetwork(update_edge_fn=edges, update_node_fn=nodes)(graph).nodes


def loss_fn(params, graph, labels):
    logits = network.apply(params, graph)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


optimizer = optax.adam(0.05)


@jax.jit
def train_step(params, opt_state, graph, labels):
    loss, grads = jax.value_and_grad(loss_fn)(params, graph, labels)
    # ES: loss, grads = es.value_and_grad(loss_fn)(params, key, graph, labels, step=opt_state[0].count)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss


def train():
    params, losses = network.init(jax.random.key(0), GRAPH), []
    opt_state = optimizer.init(params)
    for _ in range(60):
        params, opt_state, loss = train_step(params, opt_state, GRAPH, LABELS)
        losses.append(loss)
    return losses


def problem():
    params = network.init(jax.random.key(0), GRAPH)
    return jax.value_and_grad, loss_fn, (params, GRAPH, LABELS)
