"""Flax NNX: module and optimizer changed in place, under `nnx.jit`."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(256, sigma=0.03), jax.random.key(0)

IMPROVES = 0.2
X = jax.random.normal(jax.random.key(1), (32, 4))
Y = jnp.sin(X.sum(axis=1, keepdims=True))


class MLP(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(4, 12, rngs=rngs)
        self.out = nnx.Linear(12, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x)))


def loss_fn(model, x, y):
    return optax.squared_error(model(x), y).mean()


@nnx.jit
def train_step(model, optimizer, x, y):
    loss, grads = nnx.value_and_grad(loss_fn)(model, x, y)
    # ES: loss, grads = es.value_and_grad(loss_fn)(model, key, x, y, step=optimizer.step)
    optimizer.update(model, grads)
    return loss


def train():
    model = MLP(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.03), wrt=nnx.Param)
    return [train_step(model, optimizer, X, Y) for _ in range(60)]


def problem():
    return nnx.value_and_grad, loss_fn, (MLP(nnx.Rngs(0)), X, Y)
