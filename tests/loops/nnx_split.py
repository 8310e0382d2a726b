"""Flax NNX: split into a graph and parameters, `jax.jit`."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(256, sigma=0.03), jax.random.key(0)

IMPROVES = 0.2
X = jax.random.normal(jax.random.key(1), (32, 4))
Y = jnp.abs(X).sum(axis=1, keepdims=True)
graph, params = nnx.split(
    nnx.Sequential(
        nnx.Linear(4, 12, rngs=nnx.Rngs(0)),
        nnx.tanh,
        nnx.Linear(12, 1, rngs=nnx.Rngs(1)),
    )
)
optimizer = optax.adam(0.05)


def loss_fn(params, x, y):
    return jnp.mean((nnx.merge(graph, params)(x) - y) ** 2)


@jax.jit
def train_step(params, opt_state, x, y):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    # ES: loss, grads = es.value_and_grad(loss_fn)(params, key, x, y, step=opt_state[0].count)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


def train():
    now, opt_state, losses = params, optimizer.init(params), []
    for _ in range(60):
        now, opt_state, loss = train_step(now, opt_state, X, Y)
        losses.append(loss)
    return losses


def problem():
    return jax.value_and_grad, loss_fn, (params, X, Y)
