"""Optax: gradient descent with a backtracking line search."""

import jax
import jax.numpy as jnp
import optax


# ES+ import eggroll
# ES+ raw = eggroll.shaping.none  # the line search compares the gradient with the loss
# ES+ es = eggroll.EvolutionStrategy(256, sigma=0.01, shaping=raw)
# ES+ key = jax.random.key(0)

IMPROVES = 0.05
X = jax.random.normal(jax.random.key(1), (32, 4))
Y = X @ jnp.array([1.0, -2.0, 3.0, 0.5])


def loss_fn(params):
    return jnp.mean((X @ params["w"] + params["b"] - Y) ** 2)


solver = optax.chain(
    optax.sgd(learning_rate=1.0), optax.scale_by_backtracking_linesearch(15)
)


@jax.jit
def step(params, state):
    value, grads = jax.value_and_grad(loss_fn)(params)
    # ES: value, grads = es.value_and_grad(loss_fn)(params, key)
    updates, state = solver.update(
        grads, state, params, value=value, grad=grads, value_fn=loss_fn
    )
    return optax.apply_updates(params, updates), state, value


def train():
    params, losses = {"w": jnp.zeros(4), "b": jnp.ones(())}, []
    state = solver.init(params)
    for _ in range(20):
        params, state, loss = step(params, state)
        losses.append(loss)
    return losses


def problem():
    return jax.value_and_grad, loss_fn, ({"w": jnp.zeros(4), "b": jnp.ones(())},)
