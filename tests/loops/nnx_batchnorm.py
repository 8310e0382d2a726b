"""Flax NNX: batch statistics kept in the module (`nnx.BatchNorm`)."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(256, sigma=0.03), jax.random.key(0)

IMPROVES = 0.2
X = 3 + 2 * jax.random.normal(jax.random.key(1), (32, 4))
Y = jnp.tanh(X - 3).sum(axis=1, keepdims=True)


class Normed(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.out = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.norm(self.hidden(x))))


def loss_fn(model, x, y):
    return optax.squared_error(model(x), y).mean()


@nnx.jit
def train_step(model, optimizer, x, y):
    loss, grads = nnx.value_and_grad(loss_fn)(model, x, y)
    # ES: loss, grads = es.value_and_grad(loss_fn)(model, key, x, y, step=optimizer.step)
    optimizer.update(model, grads)
    return loss


def train():
    model = Normed(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.05), wrt=nnx.Param)
    before = loss_fn(nnx.view(model, use_running_average=True), X, Y)
    for _ in range(60):
        train_step(model, optimizer, X, Y)
    # as it is used: by the statistics that training left behind
    return [before, loss_fn(nnx.view(model, use_running_average=True), X, Y)]


def problem():
    return nnx.value_and_grad, loss_fn, (Normed(nnx.Rngs(0)), X, Y)
