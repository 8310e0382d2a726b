"""Twenty steps of small models on a mesh: run as a program, or imported.

    python trajectories.py MODEL FILE [--coordinator ... --processes N --process I]

writes the parameters to FILE.
"""

import argparse
import functools
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec as P

import eggroll
from eggroll.training.placement import placed
from eggroll.training.processes import whole


STEPS, N, FIXED = 20, 32, 8
SEED = 5  # a key would start JAX, before it knows of other processes


class Case(NamedTuple):
    """A model, its data and where it lies."""

    params: Any
    loss: Any
    data: Any
    partition: dict[str, P]


def normal(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) / 4


def mlp() -> Case:
    params = {"a": normal(0, 16, 24), "b": normal(1, 24, 8), "bias": normal(2, 24)}

    def loss(p, x):
        return jnp.mean((jnp.tanh(x @ p["a"] + p["bias"]) @ p["b"] - 1) ** 2)

    return Case(params, loss, normal(3, 4, 16), {})


def transformer() -> Case:
    """Two scanned layers with attention; heads and hidden units over the model."""
    layers, width, heads, vocabulary = 2, 16, 4, 24
    params = {
        "embed": normal(0, vocabulary, width) * 4,
        "layers": {
            "qkv": normal(1, layers, width, 3 * width),
            "out": normal(2, layers, width, width),
            "up": normal(3, layers, width, 2 * width),
            "down": normal(4, layers, 2 * width, width),
        },
    }

    def layer(x, w):
        q, k, v = jnp.split((x @ w["qkv"]).reshape(-1, 3 * heads, 4), 3, axis=1)
        scores = jnp.einsum("qhd,khd->hqk", q, k) / 2
        mask = jnp.tril(jnp.ones(scores.shape[1:], bool))
        share = jax.nn.softmax(jnp.where(mask, scores, -1e9))
        x = x + jnp.einsum("hqk,khd->qhd", share, v).reshape(x.shape) @ w["out"]
        return x + jax.nn.gelu(x @ w["up"]) @ w["down"], None

    def loss(p, tokens):
        x, _ = lax.scan(layer, p["embed"][tokens[:-1]], p["layers"])
        logits = jax.nn.log_softmax(x @ p["embed"].T)
        return -jnp.mean(jnp.take_along_axis(logits, tokens[1:, None], 1))

    tokens = np.random.default_rng(5).integers(0, vocabulary, 12)
    columns, rows = P(None, None, "model"), P(None, "model")
    partition = {"**/qkv": columns, "**/out": rows, "**/up": columns, "**/down": rows}
    return Case(params, loss, tokens, partition)


CASES = {"mlp": mlp, "transformer": transformer}


def run(case: Case, mesh: Any, **settings: Any) -> Any:
    """The parameters after some steps, on the host."""
    es = eggroll.EvolutionStrategy(
        N, 0.05, mesh=mesh, partition=case.partition, **settings
    )
    lies = eggroll.shardings(case.params, mesh, case.partition)
    params, optimizer = placed(case.params, lies), optax.adam(0.02)

    @functools.partial(jax.jit, out_shardings=(lies, None))
    def step(params, state, i):
        _, grads = es.value_and_grad(case.loss)(
            params, jax.random.key(SEED), case.data, step=i
        )
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.jit(optimizer.init)(params)
    for i in range(STEPS):
        params, state = step(params, state, i)
    return whole(params)


def noise(mesh: Any) -> Any:
    """Members of a generation, which are nothing but noise."""
    es = eggroll.EvolutionStrategy(N, 1.0, mesh=mesh, noise="gaussian")
    zeros = placed(np.zeros((5, 3), np.float32), NamedSharding(mesh, P()))
    ask = jax.jit(es.ask(lambda p: (p, jnp.ones(5) @ p)))
    (members, _), _ = ask(zeros, jax.random.key(SEED))
    return whole(members)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("file", type=Path)
    parser.add_argument("--coordinator")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    options = parser.parse_args()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(options.coordinator, options.processes, options.process)
    found: dict[str, Any] = {"noise": noise(eggroll.population_mesh())}
    model, _, share = options.model.partition("-")
    mesh = eggroll.population_mesh(model=int(share or 1))
    for way in ("reduce", "mixed", "scatter", "replay"):
        found[way] = run(CASES[model](), mesh, update=way)
    if not share:
        how = {"fixed_order": FIXED, "chunk_size": 4}
        found["fixed"] = run(CASES[model](), mesh, **how)
    try:  # what only one process knows
        es = eggroll.EvolutionStrategy(N, 0.05, mesh=eggroll.population_mesh())
        case = CASES["mlp"]()
        generation = es.generation(case.loss)(
            case.params, jax.random.key(SEED), case.data
        )
        es.gradient(generation, np.arange(N) + options.process)
    except ValueError as error:
        sys.stdout.write(f"{error}\n")
    if options.process == 0:
        flat, _ = jax.tree_util.tree_flatten_with_path(found)
        name = jax.tree_util.keystr
        np.savez(options.file, **{name(p, simple=True): x for p, x in flat})


if __name__ == "__main__":
    main()
