"""A language model in Flax Linen: causal self-attention, the next token's entropy."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn


# ES+ import eggroll
# ES+ es, key = eggroll.EvolutionStrategy(256, sigma=0.05), jax.random.key(0)

IMPROVES = 0.2
STARTS, STRIDES = jnp.meshgrid(jnp.arange(6), jnp.array([1, 5]))
TOKENS = (STARTS.reshape(-1, 1) + STRIDES.reshape(-1, 1) * jnp.arange(7)) % 6


class LM(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(6, 8)
        x = embed(tokens) + self.param("position", nn.initializers.normal(0.3), (6, 8))
        mask = nn.make_causal_mask(tokens)
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x), mask=mask)
        x = x + nn.Dense(8)(nn.gelu(nn.Dense(12)(nn.LayerNorm()(x))))
        return embed.attend(nn.LayerNorm()(x))


model, optimizer = LM(), optax.adamw(0.02)


def loss_fn(params, tokens):
    logits = model.apply(params, tokens[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


@jax.jit
def train_step(params, opt_state, tokens):
    loss, grads = jax.value_and_grad(loss_fn)(params, tokens)
    # ES: loss, grads = es.value_and_grad(loss_fn)(params, key, tokens, step=opt_state[0].count)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


def train():
    params, losses = model.init(jax.random.key(1), TOKENS[:, :-1]), []
    opt_state = optimizer.init(params)
    for _ in range(100):
        params, opt_state, loss = train_step(params, opt_state, TOKENS)
        losses.append(loss)
    return losses


def problem():
    params = model.init(jax.random.key(1), TOKENS[:, :-1])
    return jax.value_and_grad, loss_fn, (params, TOKENS)
