"""Plain JAX: all steps in one `lax.scan`, jitted."""

import jax
import jax.numpy as jnp
import optax


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(128, sigma=0.03), jax.random.key(0)

IMPROVES = 0.05
X = jax.random.normal(jax.random.key(1), (32, 3))
Y = jnp.cos(X).sum(axis=1, keepdims=True)
optimizer = optax.adam(0.05)


def loss_fn(params, x, y):
    return jnp.mean((jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] - y) ** 2)


def init():
    keys = jax.random.split(jax.random.key(3))
    w1, w2 = jax.random.normal(keys[0], (3, 8)), jax.random.normal(keys[1], (8, 1)) / 3
    return {"w1": w1, "b1": jnp.zeros(8), "w2": w2}


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
    return jax.lax.scan(step, carry, jnp.arange(80))[1]


def problem():
    return jax.value_and_grad, loss_fn, (init(), X, Y)
