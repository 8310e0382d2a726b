"""bfloat16 parameters, in a `lax.scan` that keeps their type."""

import jax
import jax.numpy as jnp
import optax


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(256, sigma=0.1), jax.random.key(0)

IMPROVES = 0.05
SIGMA = 0.1  # for a loss that rounds to bfloat16
X = jax.random.normal(jax.random.key(1), (32, 6), jnp.bfloat16)
Y = X.astype(jnp.float32) @ jax.random.normal(jax.random.key(2), (6, 4))
optimizer = optax.adam(0.1)


def loss_fn(params, x, y):
    out = x @ params["w"] + params["b"]
    return jnp.mean((out.astype(jnp.float32) - y) ** 2)


def init():
    w = jax.random.normal(jax.random.key(3), (6, 4), jnp.bfloat16)
    return {"w": w, "b": jnp.zeros(4, jnp.bfloat16)}


def step(carry, i):
    params, opt_state = carry
    loss, grads = jax.value_and_grad(loss_fn)(params, X, Y)
    # ES: loss, grads = es.value_and_grad(loss_fn)(params, key, X, Y, step=i)
    updates, opt_state = optimizer.update(grads, opt_state)
    return (optax.apply_updates(params, updates), opt_state), loss


@jax.jit
def train():
    params = init()
    carry = params, optimizer.init(params)
    return jax.lax.scan(step, carry, jnp.arange(60))[1]


def problem():
    return jax.value_and_grad, loss_fn, (init(), X, Y)
