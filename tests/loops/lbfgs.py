"""Optax: L-BFGS with a line search that evaluates the loss itself (`value_fn`)."""

import jax
import jax.numpy as jnp
import optax


# ES+ import eggroll
# ES+ raw = eggroll.shaping.none  # the line search compares the gradient with the loss
# ES+ es = eggroll.EvolutionStrategy(256, sigma=0.01, shaping=raw)
# ES+ key = jax.random.key(0)  # one for all steps: L-BFGS asks for one function

IMPROVES = 0.3
X = jax.random.normal(jax.random.key(1), (32, 3))
Y = (X @ jnp.array([3.0, -2.0, 1.0]) > 0.5).astype(jnp.float32)


def loss_fn(params):
    logits = X @ params["w"] + params["b"]
    loss = optax.sigmoid_binary_cross_entropy(logits, Y).mean()
    return loss + 0.001 * sum(jnp.sum(p**2) for p in jax.tree.leaves(params))


solver = optax.lbfgs()


@jax.jit
def step(params, state):
    value, grads = jax.value_and_grad(loss_fn)(params)
    # ES: value, grads = es.value_and_grad(loss_fn)(params, key)
    updates, state = solver.update(
        grads, state, params, value=value, grad=grads, value_fn=loss_fn
    )
    return optax.apply_updates(params, updates), state, value


def train():
    params, losses = {"w": jnp.zeros(3), "b": jnp.zeros(())}, []
    state = solver.init(params)
    for _ in range(15):
        params, state, loss = step(params, state)
        losses.append(loss)
    return losses


def problem():
    return jax.value_and_grad, loss_fn, ({"w": jnp.ones(3), "b": jnp.zeros(())},)
