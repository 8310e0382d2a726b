"""Optax: decay of matrices alone (`masked`), a frozen embedding (`multi_transform`)."""

import jax
import jax.numpy as jnp
import optax


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(256, sigma=0.03), jax.random.key(0)

IMPROVES = 0.05
TOKENS = jax.random.randint(jax.random.key(1), (32, 5), 0, 10)
LABELS = (TOKENS.sum(axis=1) > 22).astype(jnp.float32)


def loss_fn(params, tokens, labels):
    x = params["embed"][tokens].reshape(len(tokens), -1)
    logits = jnp.tanh(x @ params["w"] + params["b"]) @ params["head"]
    return optax.sigmoid_binary_cross_entropy(logits, labels).mean()


def init():
    keys = jax.random.split(jax.random.key(3), 3)
    w = jax.random.normal
    shapes = {"embed": w(keys[0], (10, 3)), "w": w(keys[1], (15, 8)) / 4}
    return shapes | {"b": jnp.zeros(8), "head": w(keys[2], (8,)) / 3}


matrices = lambda params: jax.tree.map(lambda p: p.ndim == 2, params)
learner = optax.chain(
    optax.scale_by_adam(),
    optax.masked(optax.add_decayed_weights(1e-3), matrices),
    optax.scale(-0.03),
)
labels_of = lambda params: {k: "still" if k == "embed" else "learns" for k in params}
optimizer = optax.multi_transform(
    {"learns": learner, "still": optax.set_to_zero()}, labels_of
)


@jax.jit
def train_step(params, opt_state, i, x, y):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    # ES: loss, grads = es.value_and_grad(loss_fn)(params, key, x, y, step=i)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


def train():
    params, losses = init(), []
    opt_state = optimizer.init(params)
    for i in range(80):
        params, opt_state, loss = train_step(params, opt_state, i, TOKENS, LABELS)
        losses.append(loss)
    return losses


def problem():
    return jax.value_and_grad, loss_fn, (init(), TOKENS, LABELS)
