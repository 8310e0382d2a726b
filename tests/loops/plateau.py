"""Optax: the learning rate falls where the loss stands still (`reduce_on_plateau`)."""

import jax
import jax.numpy as jnp
import optax
from optax.contrib import reduce_on_plateau


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(128, sigma=0.03), jax.random.key(0)

IMPROVES = 0.2
X = jax.random.normal(jax.random.key(1), (32, 4))
Y = X @ jax.random.normal(jax.random.key(2), (4, 3))
optimizer = optax.chain(optax.adam(0.2), reduce_on_plateau(factor=0.5, patience=3))


def loss_fn(params, x, y):
    return jnp.mean((x @ params["w"] - y) ** 2)


@jax.jit
def train_step(params, opt_state, i, x, y):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    # ES: loss, grads = es.value_and_grad(loss_fn)(params, key, x, y, step=i)
    updates, opt_state = optimizer.update(grads, opt_state, params, value=loss)
    return optax.apply_updates(params, updates), opt_state, loss


def train():
    params, losses = {"w": jnp.zeros((4, 3))}, []
    opt_state = optimizer.init(params)
    for i in range(80):
        params, opt_state, loss = train_step(params, opt_state, i, X, Y)
        losses.append(loss)
    return losses


def problem():
    return jax.value_and_grad, loss_fn, ({"w": jnp.ones((4, 3))}, X, Y)
