"""Optax: a scheduled learning rate that can be read (`inject_hyperparams`)."""

import jax
import jax.numpy as jnp
import optax


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(128, sigma=0.03), jax.random.key(0)

IMPROVES = 0.2
X = jax.random.normal(jax.random.key(1), (32, 4))
Y = jnp.tanh(X @ jax.random.normal(jax.random.key(2), (4, 3)))
schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 80)
optimizer = optax.inject_hyperparams(optax.adamw)(learning_rate=schedule)


def loss_fn(params, x, y):
    return jnp.mean(jnp.abs(jnp.tanh(x @ params["w"] + params["b"]) - y))


@jax.jit
def train_step(params, opt_state, x, y):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    # ES: loss, grads = es.value_and_grad(loss_fn)(params, key, x, y, step=opt_state.count)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


def init():
    return {"w": jax.random.normal(jax.random.key(3), (4, 3)), "b": jnp.zeros(3)}


def train():
    params, losses = init(), []
    opt_state = optimizer.init(params)
    for _ in range(80):
        params, opt_state, loss = train_step(params, opt_state, X, Y)
        losses.append(loss)
    assert opt_state.hyperparams["learning_rate"] < 0.01
    return losses


def problem():
    return jax.value_and_grad, loss_fn, (init(), X, Y)
