"""Equinox: `eqx.nn.State`, a BatchNorm's statistics, carried through aux."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(256, sigma=0.03), jax.random.key(0)

IMPROVES = 0.2
X = 3 + 2 * jax.random.normal(jax.random.key(1), (32, 4))
Y = jnp.tanh(X - 3).sum(axis=1, keepdims=True)
optimizer = optax.adam(0.05)


class Normed(eqx.Module):
    hidden: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    out: eqx.nn.Linear

    def __init__(self, key):
        self.hidden = eqx.nn.Linear(4, 8, key=key)
        self.norm = eqx.nn.BatchNorm(8, axis_name="batch", mode="batch", momentum=0.9)
        self.out = eqx.nn.Linear(8, 1, key=key)

    def __call__(self, x, state):
        x, state = self.norm(self.hidden(x), state)
        return self.out(jax.nn.relu(x)), state


def loss_fn(model, state, x, y):
    batched = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    out, state = batched(x, state)
    return jnp.mean((out - y) ** 2), state


@eqx.filter_jit
def make_step(model, state, opt_state, x, y):
    grad_fn = eqx.filter_value_and_grad(loss_fn, has_aux=True)
    # ES: grad_fn = es.value_and_grad(loss_fn, has_aux=True)
    (_, state), grads = grad_fn(model, state, x, y)
    # ES: (_, state), grads = grad_fn(model, key, state, x, y, step=opt_state[0].count)
    updates, opt_state = optimizer.update(grads, opt_state)
    return eqx.apply_updates(model, updates), state, opt_state


@eqx.filter_jit
def evaluate(model, state):
    return loss_fn(eqx.nn.inference_mode(model), state, X, Y)[0]


def train():
    model, state = eqx.nn.make_with_state(Normed)(jax.random.key(2))
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    model, state, opt_state = make_step(model, state, opt_state, X, Y)
    before = evaluate(model, state)
    for _ in range(60):
        model, state, opt_state = make_step(model, state, opt_state, X, Y)
    return [before, evaluate(model, state)]


def problem():
    model, state = eqx.nn.make_with_state(Normed)(jax.random.key(2))
    return eqx.filter_value_and_grad, loss_fn, (model, state, X, Y), True
