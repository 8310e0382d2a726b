"""Meta-learning (MAML): the loss after an inner step of `jax.grad`."""

import jax
import jax.numpy as jnp
import optax


# ES+ import eggroll
# ES+ es = eggroll.EvolutionStrategy(256, sigma=0.03)

IMPROVES = 0.3


def predict(params, x):
    hidden = jnp.tanh(x * params["w1"] + params["b1"])
    return hidden @ params["w2"] + params["b2"]


def task_loss(params, x, y):
    return jnp.mean((predict(params, x[:, None]) - y) ** 2)


def meta_loss(params, tasks):
    def adapted(phase, x):
        y = jnp.sin(x + phase)
        inner = jax.grad(task_loss)(params, x[:5], y[:5])
        params_ = jax.tree.map(lambda p, g: p - 0.1 * g, params, inner)
        return task_loss(params_, x[5:], y[5:])

    return jax.vmap(adapted)(*tasks).mean()


optimizer = optax.adam(0.02)


@jax.jit
def train_step(params, opt_state, key):
    phases = jax.random.uniform(key, (16,), maxval=jnp.pi)
    tasks = phases, jax.random.uniform(key, (16, 10), minval=-2, maxval=2)
    loss, grads = jax.value_and_grad(meta_loss)(params, tasks)
    # ES: loss, grads = es.value_and_grad(meta_loss)(params, key, tasks)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss


def init():
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "w1": jax.random.normal(keys[0], (16,)),
        "b1": jax.random.normal(keys[1], (16,)),
        "w2": jax.random.normal(keys[2], (16,)) / 4,
        "b2": jnp.zeros(()),
    }


def train():
    params, losses = init(), []
    opt_state = optimizer.init(params)
    for i in range(150):
        key = jax.random.fold_in(jax.random.key(1), i)
        params, opt_state, loss = train_step(params, opt_state, key)
        losses.append(loss)
    return losses


def problem():
    tasks = jnp.linspace(0, 3, 4), jnp.linspace(-2, 2, 40).reshape(10, 4).T
    return jax.value_and_grad, meta_loss, (init(), tasks)
