"""Double precision (`jax_enable_x64`): a boundary-value problem (a PINN)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(256, sigma=0.02), jax.random.key(0)

IMPROVES = 0.05
X64 = True
POINTS = np.linspace(0, 1, 16)
optimizer = optax.adam(0.02)


def network(params, x):
    return jnp.tanh(x * params["w1"] + params["b1"]) @ params["w2"]


def loss_fn(params, points):
    """u'' = -π² sin(πx), u(0) = u(1) = 0, whose solution is sin(πx)."""
    u = lambda x: network(params, x)
    curvature = jax.vmap(jax.grad(jax.grad(u)))(points)
    residual = curvature / jnp.pi**2 + jnp.sin(jnp.pi * points)
    return jnp.mean(residual**2) + u(0.0) ** 2 + u(1.0) ** 2


@jax.jit
def train_step(params, opt_state, points):
    loss, grads = jax.value_and_grad(loss_fn)(params, points)
    # ES: loss, grads = es.value_and_grad(loss_fn)(params, key, points, step=opt_state[0].count)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss


def init():
    random = np.random.default_rng(0)
    w1, b1, w2 = random.normal(size=(3, 12))
    return jax.tree.map(jnp.asarray, {"w1": 2 * w1, "b1": b1, "w2": w2 / 3})


def train():
    params, losses = init(), []
    opt_state = optimizer.init(params)
    for _ in range(150):
        params, opt_state, loss = train_step(params, opt_state, POINTS)
        losses.append(loss)
    assert losses[-1].dtype == params["w1"].dtype == jnp.float64
    return losses


def problem():
    return jax.value_and_grad, loss_fn, (init(), POINTS)
