"""Plain JAX: a whole training run, `vmap`ped over seeds."""

import jax
import jax.numpy as jnp
import optax


# ES+ import eggroll
# ES+ es = eggroll.EvolutionStrategy(128, sigma=0.03)

IMPROVES = 0.2
X = jax.random.normal(jax.random.key(1), (32, 3))
Y = jnp.sin(X.sum(axis=1))
optimizer = optax.adam(0.05)


def loss_fn(params, x, y):
    return jnp.mean((jnp.tanh(x @ params["w1"]) @ params["w2"] - y) ** 2)


def init(key):
    keys = jax.random.split(key)
    return {
        "w1": jax.random.normal(keys[0], (3, 8)),
        "w2": jax.random.normal(keys[1], (8,)) / 3,
    }


def run(seed):
    key = jax.random.key(seed)

    def step(carry, i):
        params, opt_state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params, X, Y)
        # ES: loss, grads = es.value_and_grad(loss_fn)(params, key, X, Y, step=i)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), loss

    params = init(key)
    return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(60))[1]


def train():
    return jax.jit(jax.vmap(run))(jnp.arange(4)).mean(axis=0)


def problem():
    return jax.value_and_grad, loss_fn, (init(jax.random.key(0)), X, Y)
