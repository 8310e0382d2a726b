"""Data-parallel by `jax.shard_map`, with its default `check_vma`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec as P


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(128, sigma=0.03), jax.random.key(0)

IMPROVES = 0.2
MESH = Mesh(np.array(jax.devices()[:4]), ("batch",))
X = jax.random.normal(jax.random.key(1), (32, 4))
Y = jnp.tanh(X @ jax.random.normal(jax.random.key(2), (4, 3)))
optimizer = optax.adam(0.05)


def loss_fn(params, x, y):
    return jnp.mean((jnp.tanh(x @ params["w"]) - y) ** 2)


def mean_loss(params, x, y):
    return jax.lax.pmean(loss_fn(params, x, y), "batch")


@jax.jit
@functools.partial(
    jax.shard_map,
    mesh=MESH,
    in_specs=(P(), P(), P("batch"), P("batch")),
    out_specs=(P(), P(), P()),
)
def train_step(params, opt_state, x, y):
    loss, grads = jax.value_and_grad(mean_loss)(params, x, y)
    # ES: loss, grads = es.value_and_grad(mean_loss)(params, key, x, y, step=opt_state[0].count)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss


def train():
    params, losses = {"w": jax.random.normal(jax.random.key(3), (4, 3))}, []
    opt_state = optimizer.init(params)
    for _ in range(40):
        params, opt_state, loss = train_step(params, opt_state, X, Y)
        losses.append(loss)
    return losses


def problem():
    params = {"w": jax.random.normal(jax.random.key(3), (4, 3))}
    return jax.value_and_grad, loss_fn, (params, X, Y)
