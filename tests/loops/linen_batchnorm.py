"""Flax Linen: batch statistics as a mutable collection, carried through aux."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training import train_state


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(256, sigma=0.03), jax.random.key(0)

IMPROVES = 0.2
X = 3 + 2 * jax.random.normal(jax.random.key(1), (32, 4))
Y = jnp.tanh(X - 3).sum(axis=1, keepdims=True)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(8)(x))
        return nn.Dense(1)(nn.relu(x))


class TrainState(train_state.TrainState):
    batch_stats: Any


model = Normed()


def loss_fn(params, batch_stats, x, y):
    variables = {"params": params, "batch_stats": batch_stats}
    out, changed = model.apply(variables, x, train=True, mutable=["batch_stats"])
    return jnp.mean((out - y) ** 2), changed["batch_stats"]


@jax.jit
def train_step(state, x, y):
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    # ES: grad_fn = es.value_and_grad(loss_fn, has_aux=True)
    (_, stats), grads = grad_fn(state.params, state.batch_stats, x, y)
    # ES: (_, stats), grads = grad_fn(state.params, key, state.batch_stats, x, y, step=state.step)
    return state.apply_gradients(grads=grads, batch_stats=stats)


@jax.jit
def evaluate(state):
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return jnp.mean((model.apply(variables, X, train=False) - Y) ** 2)


def train():
    variables = model.init(jax.random.key(2), X, train=False)
    state = TrainState.create(apply_fn=model.apply, tx=optax.adam(0.05), **variables)
    before = evaluate(state)
    for _ in range(60):
        state = train_step(state, X, Y)
    return [before, evaluate(state)]


def problem():
    variables = model.init(jax.random.key(2), X, train=False)
    args = (variables["params"], variables["batch_stats"], X, Y)
    return jax.value_and_grad, loss_fn, args, True
