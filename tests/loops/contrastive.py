"""Contrastive learning of two towers (CLIP, InfoNCE): gradients of two arguments."""

import jax
import jax.numpy as jnp
import optax


# ES+ import eggroll
# ES+ es = eggroll.EvolutionStrategy(256, sigma=0.03)

IMPROVES = 0.2
IMAGES = jax.random.normal(jax.random.key(1), (16, 6))
TEXTS = IMAGES @ jax.random.normal(jax.random.key(2), (6, 5))
optimizer = optax.adam(0.03)


def init():
    keys = jax.random.split(jax.random.key(3))
    w = lambda key, n: jax.random.normal(key, (n, 4)) / n**0.5
    return w(keys[0], 6), {"w": w(keys[1], 5), "temperature": jnp.zeros(())}


def loss_fn(images, image_tower, texts, text_tower):
    unit = lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True)
    scale = jnp.exp(text_tower["temperature"])
    logits = 3 * scale * unit(images @ image_tower) @ unit(texts @ text_tower["w"]).T
    rows, columns = jax.nn.log_softmax(logits), jax.nn.log_softmax(logits, axis=0)
    return -jnp.mean(jnp.diag(rows) + jnp.diag(columns)) / 2


@jax.jit
def train_step(towers, opt_state, key):
    chosen = jax.random.permutation(key, 16)[:12]
    x, y, (a, b) = IMAGES[chosen], TEXTS[chosen], towers
    loss, grads = jax.value_and_grad(loss_fn, argnums=(1, 3))(x, a, y, b)
    # ES: loss, grads = es.value_and_grad(loss_fn, argnums=(1, 3))(x, key, a, y, b)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(towers, updates), opt_state, loss


def train():
    towers, losses = init(), []
    opt_state = optimizer.init(towers)
    for i in range(80):
        key = jax.random.fold_in(jax.random.key(4), i)
        towers, opt_state, loss = train_step(towers, opt_state, key)
        losses.append(loss)
    return losses


def problem():
    a, b = init()
    return jax.value_and_grad, loss_fn, (IMAGES, a, TEXTS, b), False, (1, 3)
