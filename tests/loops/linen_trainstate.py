"""Flax Linen: `TrainState`."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training.train_state import TrainState


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(256, sigma=0.03), jax.random.key(0)

IMPROVES = 0.05
X = jax.random.normal(jax.random.key(1), (32, 4))
Y = jnp.argmax(X[:, :3], axis=1)
model = nn.Sequential([nn.Dense(12), nn.relu, nn.Dense(3)])


def loss_fn(params, x, y):
    logits = model.apply({"params": params}, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), logits


@jax.jit
def train_step(state, x, y):
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    # ES: grad_fn = es.value_and_grad(loss_fn, has_aux=True)
    (loss, logits), grads = grad_fn(state.params, x, y)
    # ES: (loss, logits), grads = grad_fn(state.params, key, x, y, step=state.step)
    accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == y)
    return state.apply_gradients(grads=grads), {"loss": loss, "accuracy": accuracy}


def train():
    params = model.init(jax.random.key(2), X)["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.adam(0.05))
    losses = []
    for _ in range(60):
        state, metrics = train_step(state, X, Y)
        losses.append(metrics["loss"])
    return losses


def problem():
    params = model.init(jax.random.key(2), X)["params"]
    return jax.value_and_grad, loss_fn, (params, X, Y), True
