"""Plain JAX: parameters and state donated to the step (`donate_argnums`)."""

import functools

import jax
import jax.numpy as jnp
import optax


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(128, sigma=0.03), jax.random.key(0)

IMPROVES = 0.05
X = jax.random.normal(jax.random.key(1), (32, 4))
Y = jnp.maximum(X @ jax.random.normal(jax.random.key(2), (4, 3)), 0)
optimizer = optax.adam(0.05)


def loss_fn(params, x, y):
    return optax.huber_loss(jax.nn.relu(x @ params["w"] + params["b"]), y).mean()


@functools.partial(jax.jit, donate_argnums=(0, 1))
def train_step(params, opt_state, x, y):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    # ES: loss, grads = es.value_and_grad(loss_fn)(params, key, x, y, step=opt_state[0].count)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss


def init():
    return {"w": jax.random.normal(jax.random.key(3), (4, 3)), "b": jnp.ones(3)}


def train():
    params, losses = init(), []
    opt_state = optimizer.init(params)
    for _ in range(60):
        params, opt_state, loss = train_step(params, opt_state, X, Y)
        losses.append(loss)
    return losses


def problem():
    return jax.value_and_grad, loss_fn, (init(), X, Y)
