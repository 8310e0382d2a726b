"""Equinox: a module, `@eqx.filter_value_and_grad` as a decorator, `eqx.filter_jit`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(256, sigma=0.03), jax.random.key(0)

IMPROVES = 0.05
SEQUENCES = jax.random.normal(jax.random.key(1), (16, 6, 2))
LABELS = (SEQUENCES.sum(axis=(1, 2)) > 0).astype(jnp.float32)
optimizer = optax.adam(0.03)


class RNN(eqx.Module):
    cell: eqx.nn.GRUCell
    head: eqx.nn.Linear
    hidden: int = eqx.field(static=True)

    def __init__(self, key):
        self.hidden = 5
        self.cell = eqx.nn.GRUCell(2, 5, key=key)
        self.head = eqx.nn.Linear(5, 1, key=key)

    def __call__(self, xs):
        step = lambda carry, x: (self.cell(x, carry), None)
        carry, _ = jax.lax.scan(step, jnp.zeros(self.hidden), xs)
        return self.head(carry)[0]


@eqx.filter_value_and_grad
# ES: @es.value_and_grad
def compute_loss(model, x, y):
    return optax.sigmoid_binary_cross_entropy(jax.vmap(model)(x), y).mean()


@eqx.filter_jit
def make_step(model, opt_state, x, y):
    loss, grads = compute_loss(model, x, y)
    # ES: loss, grads = compute_loss(model, key, x, y, step=opt_state[0].count)
    updates, opt_state = optimizer.update(grads, opt_state)
    return eqx.apply_updates(model, updates), opt_state, loss


def train():
    model, losses = RNN(jax.random.key(2)), []
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    for _ in range(60):
        model, opt_state, loss = make_step(model, opt_state, SEQUENCES, LABELS)
        losses.append(loss)
    return losses


def problem():
    loss = compute_loss.__wrapped__
    args = (RNN(jax.random.key(2)), SEQUENCES, LABELS)
    return eqx.filter_value_and_grad, loss, args
