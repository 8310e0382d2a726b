"""Optax: a batch that is not a number, skipped by `apply_if_finite`."""

import jax
import jax.numpy as jnp
import optax


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(128, sigma=0.03), jax.random.key(0)

IMPROVES = 0.05
X = jax.random.normal(jax.random.key(1), (32, 4))
Y = X @ jax.random.normal(jax.random.key(2), (4, 3))
optimizer = optax.apply_if_finite(optax.adam(0.1), max_consecutive_errors=3)


def loss_fn(params, x, y):
    return jnp.mean((x @ params["w"] - y) ** 2)


@jax.jit
def train_step(params, opt_state, i, x, y):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    # ES: loss, grads = es.value_and_grad(loss_fn)(params, key, x, y, step=i)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


def train():
    params, losses = {"w": jnp.zeros((4, 3))}, []
    opt_state = optimizer.init(params)
    for i in range(50):
        x = X.at[0, 0].set(jnp.nan) if i == 10 else X
        params, opt_state, loss = train_step(params, opt_state, i, x, Y)
        losses.append(loss)
    assert jnp.isnan(losses[10])
    return losses


def problem():
    return jax.value_and_grad, loss_fn, ({"w": jnp.ones((4, 3))}, X, Y)
