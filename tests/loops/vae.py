"""A VAE in Flax Linen: reparametrised, with a key in the loss."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn


# ES+ import eggroll
# ES+ es = eggroll.EvolutionStrategy(256, sigma=0.03)

IMPROVES = 0.7
FACTORS = jax.random.normal(jax.random.key(1), (64, 2))
X = jax.nn.sigmoid(3 * FACTORS @ jax.random.normal(jax.random.key(2), (2, 6))).round()


class VAE(nn.Module):
    @nn.compact
    def __call__(self, x, z_rng):
        hidden = nn.tanh(nn.Dense(10)(x))
        mean, logvar = nn.Dense(2)(hidden), nn.Dense(2)(hidden)
        z = mean + jnp.exp(logvar / 2) * jax.random.normal(z_rng, mean.shape)
        return nn.Dense(6)(nn.tanh(nn.Dense(10)(z))), mean, logvar


model, optimizer = VAE(), optax.adam(0.02)


def loss_fn(params, x, z_rng):
    logits, mean, logvar = model.apply({"params": params}, x, z_rng)
    reconstruction = optax.sigmoid_binary_cross_entropy(logits, x).sum(axis=1)
    kl = -0.5 * jnp.sum(1 + logvar - mean**2 - jnp.exp(logvar), axis=1)
    return jnp.mean(reconstruction + kl), {"kl": kl.mean()}


@jax.jit
def train_step(params, opt_state, z_rng):
    (loss, _), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, X, z_rng)
    # ES: (loss, _), grads = es.value_and_grad(loss_fn, has_aux=True)(params, z_rng, X, z_rng)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss


def init():
    return model.init(jax.random.key(3), X, jax.random.key(4))["params"]


def train():
    params, losses = init(), []
    opt_state = optimizer.init(params)
    for i in range(120):
        z_rng = jax.random.fold_in(jax.random.key(5), i)
        params, opt_state, loss = train_step(params, opt_state, z_rng)
        losses.append(loss)
    return losses


def problem():
    return jax.value_and_grad, loss_fn, (init(), X, jax.random.key(5)), True
