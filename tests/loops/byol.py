"""Self-supervision (BYOL): a target network, behind `stop_gradient`, that follows."""

import jax
import jax.numpy as jnp
import optax


# ES+ import eggroll
# ES+ es = eggroll.EvolutionStrategy(256, sigma=0.03)

IMPROVES = 0.2
LATENT = jax.random.normal(jax.random.key(1), (32, 2))
MIX = jax.random.normal(jax.random.key(2), (2, 6))
optimizer = optax.adam(0.01)


def init():
    keys = jax.random.split(jax.random.key(3), 3)
    w = jax.random.normal
    online = {"body": w(keys[0], (6, 8)) / 2, "head": w(keys[1], (8, 4)) / 3}
    params = {"online": online, "predictor": w(keys[2], (4, 4)) / 2}
    return params | {"target": jax.tree.map(jnp.copy, online)}


def encode(network, x):
    return jnp.tanh(x @ network["body"]) @ network["head"]


def unit(x):
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def loss_fn(params, one, other):
    target = jax.lax.stop_gradient(params["target"])
    guess = encode(params["online"], one) @ params["predictor"]
    return 2 - 2 * jnp.mean(jnp.sum(unit(guess) * unit(encode(target, other)), axis=1))


def views(key):
    noise = 0.3 * jax.random.normal(key, (2, 32, 6))
    return LATENT @ MIX + noise


@jax.jit
def train_step(params, opt_state, key):
    loss, grads = jax.value_and_grad(loss_fn)(params, *views(key))
    # ES: loss, grads = es.value_and_grad(loss_fn)(params, key, *views(key))
    updates, opt_state = optimizer.update(grads, opt_state)
    params = optax.apply_updates(params, updates)
    target = optax.incremental_update(params["online"], params["target"], 0.05)
    return params | {"target": target}, opt_state, loss


def train():
    params, losses = init(), []
    opt_state = optimizer.init(params)
    for i in range(100):
        key = jax.random.fold_in(jax.random.key(4), i)
        params, opt_state, loss = train_step(params, opt_state, key)
        losses.append(loss)
    return losses


def problem():
    return jax.value_and_grad, loss_fn, (init(), *views(jax.random.key(4)))
