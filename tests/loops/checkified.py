"""`checkify`: the step checked for what is not a number, and by checks of its own."""

import jax
import jax.numpy as jnp
import optax
from jax.experimental import checkify


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(128, sigma=0.03), jax.random.key(0)

IMPROVES = 0.3
X = jax.random.normal(jax.random.key(1), (32, 4))
Y = jnp.exp(X @ jnp.array([0.5, -0.5, 0.2, 0.0]))
optimizer = optax.adam(0.05)


def loss_fn(params, x, y):
    rate = x @ params["w"] + params["b"]
    return jnp.mean(jnp.exp(rate) - y * rate) + 2


def train_step(params, opt_state, x, y):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    # ES: loss, grads = es.value_and_grad(loss_fn)(params, key, x, y, step=opt_state[0].count)
    checkify.check(loss < 100, "the loss is too large: {loss}", loss=loss)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss


checks = checkify.user_checks | checkify.float_checks
checked_step = jax.jit(checkify.checkify(train_step, errors=checks))


def init():
    return {"w": -jnp.ones(4), "b": jnp.ones(())}


def train():
    params, losses = init(), []
    opt_state = optimizer.init(params)
    for _ in range(60):
        error, (params, opt_state, loss) = checked_step(params, opt_state, X, Y)
        error.throw()
        losses.append(loss)
    return losses


def problem():
    return jax.value_and_grad, loss_fn, (init(), X, Y)
