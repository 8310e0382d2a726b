"""A neural ODE: diffrax solves it inside the loss, Equinox holds it."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optax


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(128, sigma=0.03), jax.random.key(0)

IMPROVES = 0.1
TIMES = jnp.linspace(0, 2, 8)
STARTS = jax.random.normal(jax.random.key(1), (8, 2))
TURNS = jnp.stack(
    [
        jnp.stack([jnp.cos(TIMES), jnp.sin(TIMES)], axis=1),
        jnp.stack([-jnp.sin(TIMES), jnp.cos(TIMES)], axis=1),
    ]
)
PATHS = jnp.einsum("bi,itj->btj", STARTS, TURNS)
optimizer = optax.adam(0.03)


class NeuralODE(eqx.Module):
    field: eqx.nn.MLP

    def __init__(self, key):
        self.field = eqx.nn.MLP(2, 2, 8, 1, activation=jnp.tanh, key=key)

    def __call__(self, times, start):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: self.field(y)),
            diffrax.Heun(),
            times[0],
            times[-1],
            0.25,
            start,
            saveat=diffrax.SaveAt(ts=times),
            max_steps=16,
        ).ys


@eqx.filter_value_and_grad
# ES: @es.value_and_grad
def grad_loss(model, times, paths):
    found = jax.vmap(model, in_axes=(None, 0))(times, paths[:, 0])
    return jnp.mean((found - paths) ** 2)


@eqx.filter_jit
def make_step(model, opt_state, times, paths):
    loss, grads = grad_loss(model, times, paths)
    # ES: loss, grads = grad_loss(model, key, times, paths, step=opt_state[0].count)
    updates, opt_state = optimizer.update(grads, opt_state)
    return eqx.apply_updates(model, updates), opt_state, loss


def train():
    model, losses = NeuralODE(jax.random.key(2)), []
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    for _ in range(60):
        model, opt_state, loss = make_step(model, opt_state, TIMES, PATHS)
        losses.append(loss)
    return losses


def problem():
    args = (NeuralODE(jax.random.key(2)), TIMES, PATHS)
    return eqx.filter_value_and_grad, grad_loss.__wrapped__, args
