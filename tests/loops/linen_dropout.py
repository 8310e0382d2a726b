"""Flax Linen: dropout by a key given to `apply`."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn


# ES+ import eggroll
# ES+ es = eggroll.EvolutionStrategy(256, sigma=0.03)

IMPROVES = 0.1
X = jax.random.normal(jax.random.key(1), (32, 4))
Y = X @ jnp.array([[1.0], [-2.0], [0.5], [0.0]])


class Model(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=False):
        x = nn.relu(nn.Dense(16)(x))
        return nn.Dense(1)(nn.Dropout(0.1, deterministic=deterministic)(x))


model, optimizer = Model(), optax.adam(0.03)


def loss_fn(params, x, y, dropout_key):
    return jnp.mean((model.apply(params, x, rngs={"dropout": dropout_key}) - y) ** 2)


@jax.jit
def train_step(params, opt_state, key, x, y):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y, key)
    # ES: loss, grads = es.value_and_grad(loss_fn)(params, key, x, y, key)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss


def train():
    params = model.init(jax.random.key(2), X, deterministic=True)
    opt_state, losses = optimizer.init(params), []
    for i in range(80):
        key = jax.random.fold_in(jax.random.key(3), i)
        params, opt_state, loss = train_step(params, opt_state, key, X, Y)
        losses.append(loss)
    return losses


def problem():
    params = model.init(jax.random.key(2), X, deterministic=True)
    return jax.value_and_grad, loss_fn, (params, X, Y, jax.random.key(3))
