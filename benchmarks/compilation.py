"""What a perturbed model costs to compile, beside its plain forward pass.

    python -m benchmarks.compilation [--layers 28] [--json FILE] [MODEL ...]

Language models: one written layer after layer, the same one scanned, and blocks of two
layers as Flax NNX and Linen users write them. For each: the loss on its own, as `ask`
evaluates it on a population, the gradient from the fitness, and the whole
`value_and_grad`. Printed are the seconds of processor time of all threads that tracing
(to a jaxpr, and on to StableHLO) and compiling take, the equations of the jaxpr and the
instructions of the HLO, and the sum of the times over that of the plain loss. All of it
runs in one process, so that they share a machine's mood; the first compilation, of
nothing, does not count.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax.extend.core import ClosedJaxpr, Jaxpr

import eggroll


WIDTH, HEADS, WORDS, POPULATION = 64, 4, 128, 16
Loss = Callable[[Any, jax.Array], jax.Array]


class Cost(NamedTuple):
    """What it takes to compile a function: seconds of processor time, and sizes."""

    trace: float
    lower: float
    compile: float
    equations: int
    instructions: int

    @property
    def seconds(self) -> float:
        return self.trace + self.lower + self.compile


def cost(function: Callable, *args: Any) -> Cost:
    """Compiles a function that has not been compiled before."""
    start = time.process_time()
    traced = jax.jit(function).trace(*args)
    is_traced = time.process_time()
    lowered = traced.lower()
    is_lowered = time.process_time()
    compiled = lowered.compile()
    return Cost(
        trace=is_traced - start,
        lower=is_lowered - is_traced,
        compile=time.process_time() - is_lowered,
        equations=_equations(traced.jaxpr.jaxpr),
        instructions=(compiled.as_text() or "").count(" = "),
    )


def costs(loss: Loss, params: Any, tokens: jax.Array) -> dict[str, Cost]:
    """What it takes to compile a loss, a population's, and the learning from it."""
    es = eggroll.EvolutionStrategy(population=POPULATION, sigma=0.01)
    key, fitness = jax.random.key(1), jnp.arange(float(POPULATION))
    # (Whatever JAX remembers of the loss by its name is of one function alone.)
    own = lambda: lambda params, tokens: loss(params, tokens)
    generation = es.generation(own())(params, key, tokens)
    ask = lambda params, key, tokens: es.ask(own())(params, key, tokens)[0]
    return {
        "plain": cost(own(), params, tokens),
        "ask": cost(ask, params, key, tokens),
        "gradient": cost(es.gradient, generation, fitness),
        "value_and_grad": cost(es.value_and_grad(own()), params, key, tokens),
    }


def _equations(jaxpr: Jaxpr) -> int:
    """How many equations there are, those of inner functions at each use."""
    inner = (x for eqn in jaxpr.eqns for x in _inner(eqn.params.values()))
    return len(jaxpr.eqns) + sum(map(_equations, inner))


def _inner(values: Any) -> Iterator[Jaxpr]:
    for value in values:
        for x in value if isinstance(value, tuple | list) else (value,):
            if isinstance(x, ClosedJaxpr):
                yield x.jaxpr
            elif isinstance(x, Jaxpr):
                yield x


# --- Models


def _layer(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    normed = _rms(x) * p["norm"]
    q, k, v = (
        (normed @ p[name]).reshape(*x.shape[:-1], HEADS, WIDTH // HEADS)
        for name in ("query", "key", "value")
    )
    x = (
        x
        + jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape)
        @ (p["out"])
    )
    normed = _rms(x) * p["norm_mlp"]
    hidden = jax.nn.silu(normed @ p["gate"]) * (normed @ p["up"])
    return x + hidden @ p["down"]


def _rms(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)


def _layer_params(key: jax.Array) -> dict[str, jax.Array]:
    shapes = dict.fromkeys(("query", "key", "value", "out"), (WIDTH, WIDTH))
    shapes |= dict.fromkeys(("gate", "up"), (WIDTH, 2 * WIDTH))
    shapes |= {"down": (2 * WIDTH, WIDTH)}
    keys = jax.random.split(key, len(shapes))
    drawn = zip(keys, shapes.items(), strict=True)
    matrices = {name: 0.05 * jax.random.normal(k, shape) for k, (name, shape) in drawn}
    return matrices | {"norm": jnp.ones(WIDTH), "norm_mlp": jnp.ones(WIDTH)}


def _cross_entropy(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    logp = jax.nn.log_softmax(logits[:, :-1])
    return -jnp.take_along_axis(logp, tokens[:, 1:, None], -1).mean()


def _params(layers: Any) -> dict[str, Any]:
    embedding, head = jax.random.normal(jax.random.key(0), (2, WORDS, WIDTH))
    norm = jnp.ones(WIDTH)
    return {"embed": embedding, "layers": layers, "norm": norm, "head": head.T}


def unrolled(layers: int) -> tuple[Loss, Any]:
    """Plain JAX: a list of layers, one after the other."""
    keys = jax.random.split(jax.random.key(1), layers)

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        x = params["embed"][tokens]
        for p in params["layers"]:
            x = _layer(p, x)
        return _cross_entropy(_rms(x) * params["norm"] @ params["head"], tokens)

    return loss, _params([_layer_params(key) for key in keys])


def scanned(layers: int) -> tuple[Loss, Any]:
    """The same model; its layers are stacked, and a loop takes them."""
    keys = jax.random.split(jax.random.key(1), layers)

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        step = lambda x, p: (_layer(p, x), None)
        x, _ = jax.lax.scan(step, params["embed"][tokens], params["layers"])
        return _cross_entropy(_rms(x) * params["norm"] @ params["head"], tokens)

    return loss, _params(jax.vmap(_layer_params)(keys))


class _NNXBlock(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.norm_mlp = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(2 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        mask = nnx.make_causal_mask(x[..., 0])
        x = x + self.attention(self.norm(x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.norm_mlp(x))))


class _NNXModel(nnx.Module):
    def __init__(self, layers: int, rngs: nnx.Rngs):
        self.embed = nnx.Embed(WORDS, WIDTH, rngs=rngs)
        self.blocks = nnx.List([_NNXBlock(rngs) for _ in range(layers)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.embed.attend(self.norm(x))


def flax_nnx(layers: int) -> tuple[Loss, Any]:
    """Blocks of Flax NNX, as its users write them."""
    graph, params = nnx.split(_NNXModel(layers, nnx.Rngs(0)))

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        return _cross_entropy(nnx.merge(graph, params)(tokens), tokens)

    return loss, params


class _LinenModel(linen.Module):
    layers: int

    @linen.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = linen.Embed(WORDS, WIDTH)(tokens)
        mask = linen.make_causal_mask(tokens)
        for _ in range(self.layers):
            attention = linen.MultiHeadDotProductAttention(HEADS)
            x = x + attention(linen.LayerNorm()(x), mask=mask)  # pyrefly: ignore
            hidden = linen.gelu(linen.Dense(2 * WIDTH)(linen.LayerNorm()(x)))
            x = x + linen.Dense(WIDTH)(hidden)
        return linen.Dense(WORDS)(linen.LayerNorm()(x))


def flax_linen(layers: int) -> tuple[Loss, Any]:
    """The same of Flax Linen."""
    model = _LinenModel(layers)
    params = model.init(jax.random.key(0), jnp.zeros((1, 8), int))

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        return _cross_entropy(jnp.asarray(model.apply(params, tokens)), tokens)

    return loss, params


MODELS = {
    "unrolled": (unrolled, None),
    "scanned": (scanned, None),
    "nnx": (flax_nnx, 2),
    "linen": (flax_linen, 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tokens = jnp.arange(2 * 16).reshape(2, 16) % WORDS
    jax.jit(lambda x: x + 1).lower(tokens).compile()
    results = {}
    print(f"{'':26}  trace   lower compile     sum  ratio equations instructions")
    for name in options.models:
        make, layers = MODELS[name]
        loss, params = make(layers or options.layers)
        found = costs(loss, params, tokens)
        results[name] = {case: one._asdict() for case, one in found.items()}
        for case, one in found.items():
            times = (*one[:3], one.seconds)
            seconds = " ".join(f"{x:7.2f}" for x in times)
            ratio = one.seconds / found["plain"].seconds
            sizes = f"{one.equations:9} {one.instructions:12}"
            print(f"{name:10} {case:15} {seconds} {ratio:6.2f} {sizes}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
