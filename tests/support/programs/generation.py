"""Language models that write: caches, sampling, search."""

import jax
import jax.numpy as jnp
from jax import lax

from programs.registry import full, low, program


VOCABULARY, WIDTH, LENGTH = 17, 11, 5
MODEL = {
    "embed": low(VOCABULARY, WIDTH),
    "q": low(WIDTH, 13),
    "k": low(WIDTH, 13),
    "v": low(WIDTH, WIDTH),
    "norm": full(WIDTH, mean=1.0),
}


def empty():
    return jnp.zeros((LENGTH, 13)), jnp.zeros((LENGTH, WIDTH))


def logits_of(p, cache, token, at):
    """One token's logits, and the cache with its key and value at its place."""
    x = p["embed"][token] * p["norm"]
    keys = lax.dynamic_update_index_in_dim(cache[0], x @ p["k"], at, 0)
    values = cache[1].at[at].set(x @ p["v"])
    scores = jnp.where(jnp.arange(LENGTH) <= at, keys @ (x @ p["q"]), -1e30)
    x = x + jax.nn.softmax(scores) @ values
    return p["embed"] @ x, (keys, values)


@program(MODEL, jnp.array(3), quick=True)
def generation_in_a_scan(p, token):
    def step(carry, at):
        cache, token = carry
        logits, cache = logits_of(p, cache, token, at)
        token = jnp.argmax(logits)
        return (cache, token), (token, logits)

    return lax.scan(step, (empty(), token), jnp.arange(LENGTH))[1]


@program(MODEL, jnp.array(3))
def generation_in_a_while_until_a_token(p, token):
    def step(carry):
        at, cache, written = carry
        logits, cache = logits_of(p, cache, written[at], at)
        return at + 1, cache, written.at[at + 1].set(jnp.argmax(logits))

    def goes_on(carry):
        at, _, written = carry
        return (at < LENGTH) & ((at == 0) | (written[at] % 5 != 4))

    written = jnp.zeros(LENGTH + 1, int).at[0].set(token)
    return lax.while_loop(goes_on, step, (0, empty(), written))


@program(MODEL, (jnp.array(3), jax.random.key(1)))
def sampling_with_nucleus_and_temperature(p, given):
    def step(carry, at):
        cache, token, key = carry
        logits, cache = logits_of(p, cache, token, at)
        key, own = jax.random.split(key)
        best, order = lax.top_k(logits / 0.7, 6)
        kept = jnp.cumsum(jax.nn.softmax(best)) < 0.95
        best = jnp.where(kept.at[0].set(True), best, -1e30)
        token = order[jax.random.categorical(own, best)]
        return (cache, token, key), (token, jax.nn.log_softmax(logits)[token])

    token, key = given
    return lax.scan(step, (empty(), token, key), jnp.arange(LENGTH))[1]


@program(MODEL, jnp.array(3))
def beam_search(p, token):
    beams = 3

    def step(carry, at):
        caches, tokens, scores = carry
        logits, caches = jax.vmap(logits_of, (None, 0, 0, None))(p, caches, tokens, at)
        total = scores[:, None] + jax.nn.log_softmax(logits)
        scores, best = lax.top_k(total.reshape(-1), beams)
        parent, tokens = best // VOCABULARY, best % VOCABULARY
        caches = jax.tree.map(lambda x: x[parent], caches)
        return (caches, tokens, scores), (parent, tokens)

    caches = jax.tree.map(lambda x: jnp.stack([x] * beams), empty())
    start = (caches, jnp.full(beams, token), jnp.array([0.0, -9.0, -9.0]))
    (_, _, scores), path = lax.scan(step, start, jnp.arange(LENGTH))
    return scores, path


@program(MODEL, jnp.array([3, 16, 0, 3]))
def prompt_read_at_once_then_continued(p, tokens):
    x = p["embed"][tokens] * p["norm"]
    keys, values = (jnp.pad(x @ p[name], ((0, 1), (0, 0))) for name in ("k", "v"))
    return logits_of(p, (keys, values), tokens[-1], LENGTH - 1)[0]


@program(
    {"model": MODEL, "draft": low(VOCABULARY, VOCABULARY)}, jnp.array([3, 5, 0, 9, 2])
)
def speculation_with_a_table(p, tokens):
    """Guesses of a table of pairs, of which the model accepts some."""
    guesses = jnp.argmax(p["draft"][tokens], axis=-1)

    def step(cache, given):
        at, token = given
        logits, cache = logits_of(p["model"], cache, token, at)
        return cache, jnp.argmax(logits)

    said = lax.scan(step, empty(), (jnp.arange(LENGTH), tokens))[1]
    return jnp.where(jnp.cumprod(said == guesses) > 0, guesses, said)
