"""Optax: schedule-free Adam, evaluated at its average."""

import jax
import jax.numpy as jnp
import optax
from optax.contrib import schedule_free_adamw, schedule_free_eval_params


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(128, sigma=0.03), jax.random.key(0)

IMPROVES = 0.05
X = jax.random.normal(jax.random.key(1), (32, 4))
Y = X @ jax.random.normal(jax.random.key(2), (4, 3))
optimizer = schedule_free_adamw(0.1, warmup_steps=5)


def loss_fn(params, x, y):
    return jnp.mean((x @ params["w"] - y) ** 2)


@jax.jit
def train_step(params, opt_state, i, x, y):
    grads = jax.grad(loss_fn)(params, x, y)
    # ES: grads = es.grad(loss_fn)(params, key, x, y, step=i)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def train():
    params, losses = {"w": jnp.zeros((4, 3))}, []
    opt_state = optimizer.init(params)
    for i in range(80):
        losses.append(loss_fn(schedule_free_eval_params(opt_state, params), X, Y))
        params, opt_state = train_step(params, opt_state, i, X, Y)
    return losses


def problem():
    return jax.value_and_grad, loss_fn, ({"w": jnp.ones((4, 3))}, X, Y)
