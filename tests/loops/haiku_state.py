"""Haiku: `transform_with_state`, an exponential average in its state."""

import haiku as hk
import jax
import jax.numpy as jnp
import optax


# ES+ import eggroll
# ES+ es = eggroll.EvolutionStrategy(256, sigma=0.03)

IMPROVES = 0.2
X = 3 + 2 * jax.random.normal(jax.random.key(1), (32, 4))
Y = jnp.tanh(X - 3).sum(axis=1, keepdims=True)


@hk.transform_with_state
def network(x, is_training):
    norm = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)
    x = jax.nn.relu(norm(hk.Linear(8)(x), is_training))
    if is_training:
        x = hk.dropout(hk.next_rng_key(), 0.05, x)
    return hk.Linear(1)(x)


optimizer = optax.adam(0.05)


def loss_fn(params, state, rng, x, y):
    out, state = network.apply(params, state, rng, x, is_training=True)
    return jnp.mean((out - y) ** 2), state


@jax.jit
def update(params, state, opt_state, rng, x, y):
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    # ES: grad_fn = es.value_and_grad(loss_fn, has_aux=True)
    (_, state), grads = grad_fn(params, state, rng, x, y)
    # ES: (_, state), grads = grad_fn(params, rng, state, rng, x, y)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), state, opt_state


@jax.jit
def evaluate(params, state):
    out, _ = network.apply(params, state, None, X, is_training=False)
    return jnp.mean((out - Y) ** 2)


def train():
    params, state = network.init(jax.random.key(2), X, is_training=True)
    opt_state, rngs = optimizer.init(params), jax.random.split(jax.random.key(3), 60)
    losses = [evaluate(params, state)]
    for rng in rngs:
        params, state, opt_state = update(params, state, opt_state, rng, X, Y)
    return [*losses, evaluate(params, state)]


def problem():
    params, state = network.init(jax.random.key(2), X, is_training=True)
    args = (params, state, jax.random.key(3), X, Y)
    return jax.value_and_grad, loss_fn, args, True
