"""A GAN: two players, two losses, gradients alone (`jax.grad`)."""

import jax
import jax.numpy as jnp
import optax


# ES+ import eggroll
# ES+ es = eggroll.EvolutionStrategy(256, sigma=0.03)

IMPROVES = 0.5
MEAN = jnp.array([2.0, -1.0])


def init(key, sizes):
    layer = lambda i, o, key: {
        "w": jax.random.normal(key, (i, o)) / i**0.5,
        "b": jnp.zeros(o),
    }
    keys = jax.random.split(key, len(sizes))
    return [layer(*x) for x in zip(sizes[:-1], sizes[1:], keys[1:], strict=True)]


def mlp(params, x):
    for layer in params[:-1]:
        x = jax.nn.leaky_relu(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def generator_loss(generator, discriminator, noise):
    return jax.nn.softplus(-mlp(discriminator, mlp(generator, noise))).mean()


def discriminator_loss(discriminator, generator, noise, real):
    fake = jax.nn.softplus(mlp(discriminator, mlp(generator, noise))).mean()
    return jax.nn.softplus(-mlp(discriminator, real)).mean() + fake


optimizer = optax.adam(0.02, b1=0.5)


@jax.jit
def train_step(generator, discriminator, states, key):
    z_key, x_key = jax.random.split(key)
    noise = jax.random.normal(z_key, (64, 2))
    real = MEAN + 0.5 * jax.random.normal(x_key, (64, 2))
    grads = jax.grad(discriminator_loss)(discriminator, generator, noise, real)
    # ES: grads = es.grad(discriminator_loss)(discriminator, x_key, generator, noise, real)
    updates, d_state = optimizer.update(grads, states[1])
    discriminator = optax.apply_updates(discriminator, updates)
    grads = jax.grad(generator_loss)(generator, discriminator, noise)
    # ES: grads = es.grad(generator_loss)(generator, z_key, discriminator, noise)
    updates, g_state = optimizer.update(grads, states[0])
    generator = optax.apply_updates(generator, updates)
    error = jnp.linalg.norm(mlp(generator, noise).mean(axis=0) - MEAN)
    return generator, discriminator, (g_state, d_state), error


def players():
    keys = jax.random.split(jax.random.key(0))
    return init(keys[0], (2, 8, 2)), init(keys[1], (2, 12, 1))


def train():
    generator, discriminator = players()
    states, errors = (optimizer.init(generator), optimizer.init(discriminator)), []
    for i in range(200):
        key = jax.random.fold_in(jax.random.key(1), i)
        generator, discriminator, states, error = train_step(
            generator, discriminator, states, key
        )
        errors.append(error)
    return errors


def problem():
    generator, discriminator = players()
    noise = jax.random.normal(jax.random.key(2), (64, 2))
    return jax.value_and_grad, generator_loss, (generator, discriminator, noise)
