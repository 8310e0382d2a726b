"""Optax: gradients accumulated over minibatches (`MultiSteps`)."""

import jax
import jax.numpy as jnp
import optax


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(128, sigma=0.03), jax.random.key(0)

IMPROVES = 0.1
X = jax.random.normal(jax.random.key(1), (32, 4))
Y = jnp.tanh(X @ jax.random.normal(jax.random.key(2), (4, 2)))
optimizer = optax.MultiSteps(optax.adam(0.05), every_k_schedule=4)


def loss_fn(params, x, y):
    return jnp.mean((jnp.tanh(x @ params["w1"]) @ params["w2"] - y) ** 2)


@jax.jit
def train_step(params, opt_state, x, y):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    # ES: loss, grads = es.value_and_grad(loss_fn)(params, key, x, y, step=opt_state.mini_step)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


def init():
    keys = jax.random.split(jax.random.key(3))
    w = jax.random.normal
    return {"w1": w(keys[0], (4, 8)) / 2, "w2": w(keys[1], (8, 2)) / 3}


def train():
    params, losses = init(), []
    opt_state = optimizer.init(params)
    for _ in range(50):
        epoch = []
        for i in range(0, 32, 8):
            batch = X[i : i + 8], Y[i : i + 8]
            params, opt_state, loss = train_step(params, opt_state, *batch)
            epoch.append(loss)
        losses.append(sum(epoch) / 4)
    return losses


def problem():
    return jax.value_and_grad, loss_fn, (init(), X, Y)
