"""Data-parallel by `jax.pmap`: gradients averaged by `lax.pmean`."""

import functools

import jax
import jax.numpy as jnp
import optax


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(128, sigma=0.03), jax.random.key(0)

IMPROVES = 0.2
DEVICES = jax.devices()[:4]
X = jax.random.normal(jax.random.key(1), (len(DEVICES), 8, 4))
Y = jnp.tanh(X @ jax.random.normal(jax.random.key(2), (4, 3)))
optimizer = optax.adam(0.05)


def loss_fn(params, x, y):
    return jnp.mean((jnp.tanh(x @ params["w"]) - y) ** 2)


@functools.partial(jax.pmap, axis_name="batch", devices=DEVICES)
def train_step(params, opt_state, x, y):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    # ES: loss, grads = es.value_and_grad(loss_fn)(params, key, x, y, step=opt_state[0].count)
    loss, grads = jax.lax.pmean((loss, grads), axis_name="batch")
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss


def train():
    params, losses = {"w": jax.random.normal(jax.random.key(3), (4, 3))}, []
    state = (params, optimizer.init(params))
    copied = jax.tree.map(lambda x: jnp.stack([x] * len(DEVICES)), state)
    params, opt_state = jax.device_put(copied)
    for _ in range(40):
        params, opt_state, loss = train_step(params, opt_state, X, Y)
        losses.append(loss[0])
    return losses


def problem():
    params = {"w": jax.random.normal(jax.random.key(3), (4, 3))}
    return jax.value_and_grad, loss_fn, (params, X[0], Y[0])
