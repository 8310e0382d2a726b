"""The price of a perturbed forward pass, relative to pure batched inference.

    python -m benchmarks.forward [--repetitions 11] [--json FILE]

An unmodified Flax MLP of four layers, each member with an input of its own. "pure" runs
the unperturbed network on the same batch; noise is drawn inside every measured call.
The cases of a table take turns, in another order each time, so that neither a change
of the machine's speed nor what the case before left in its caches favours any; the
figure is the ratio of medians. "update" draws the noise again and contracts it.
"""

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

import eggroll


DEPTH = 4
ORDER = random.Random(0)
CASES = ((256, 4096, 1), (256, 4096, 20), (1024, 1024, 1), (1024, 1024, 20))


class MLP(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs, dtype: Any = jnp.float32):
        layer = lambda: nnx.Linear(
            width, width, dtype=dtype, param_dtype=dtype, rngs=rngs
        )
        self.layers = nnx.List([layer() for _ in range(DEPTH)])

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return x


def model(width: int, dtype: Any = jnp.float32) -> tuple[Any, Callable]:
    """Parameters, and the function of them and of rows."""
    graph, params = nnx.split(MLP(width, nnx.Rngs(0), dtype))
    return params, lambda params, x: nnx.merge(graph, params)(x)


def cases(
    width: int, population: int, steps: int, dtype: Any = jnp.float32
) -> dict[str, Callable[[], Any]]:
    """The calls to be timed, by name."""
    params, once = model(width, dtype)
    inputs = jax.random.normal(jax.random.key(1), (population, width), dtype)
    key = jax.random.key(2)

    def apply(params, x):
        if steps == 1:
            return once(params, x)
        return lax.scan(lambda x, _: (once(params, x), None), x, None, length=steps)[0]

    def call(function: Callable) -> Callable[[], Any]:
        compiled = jax.jit(function)
        return lambda: compiled(params, key, inputs)

    table = {"pure inference": call(lambda p, k, x: apply(p, x))}
    for noise in ("rademacher", "gaussian"):
        es = eggroll.EvolutionStrategy(population, sigma=0.01, noise=noise)
        ask = es.ask(apply, in_axes=0)
        table[f"{noise}, rank 1"] = call(lambda p, k, x, ask=ask: ask(p, k, x)[0])
        if steps == 1:
            generation = jax.jit(lambda p, k, x, ask=ask: ask(p, k, x)[1])(
                params, key, inputs
            )
            table[f"{noise}, update"] = call(
                lambda p, k, x, es=es, g=generation: es.gradient(g, x[:, 0])
            )
    if steps == 1 and width <= 256:
        es = eggroll.EvolutionStrategy(
            population, sigma=0.01, rank=None, chunk_size=512
        )
        ask = es.ask(apply, in_axes=0)
        table["rademacher, full rank"] = call(lambda p, k, x, ask=ask: ask(p, k, x)[0])
    return table


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def compile_seconds(width: int, population: int) -> float:
    """From nothing to the first estimate: tracing, compiling and one call."""
    graph, params = nnx.split(MLP(width, nnx.Rngs(0)))
    es = eggroll.EvolutionStrategy(population, sigma=0.01)
    fitness = lambda p, x: jnp.mean(nnx.merge(graph, p)(x))
    step = jax.jit(es.value_and_grad(fitness=fitness, in_axes=0))
    inputs = jnp.ones((population, width))
    return seconds(lambda: step(params, jax.random.key(0), inputs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=11)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, JAX {jax.__version__}")
    results = []
    for width, population, steps in CASES:
        table = cases(width, population, steps)
        times: dict[str, list[float]] = {name: [] for name in table}
        for call in table.values():
            seconds(call)
        repetitions = (
            options.repetitions if steps == 1 else max(options.repetitions, 10)
        )
        for _ in range(repetitions):
            for name in ORDER.sample(list(table), len(table)):
                times[name].append(seconds(table[name]))
        pure = statistics.median(times["pure inference"])
        print(f"\nwidth {width}, population {population}, {steps} step(s) a draw")
        for name, values in times.items():
            median = statistics.median(values)
            print(f"  {name:24} {1e3 * median:9.1f} ms   {pure / median:6.3f}")
            results.append(
                dict(width=width, population=population, steps=steps, case=name,
                     median_ms=1e3 * median, best_ms=1e3 * min(values),
                     throughput=pure / median)
            )  # fmt: skip
    for width, population, _ in (CASES[0], CASES[2]):
        first = compile_seconds(width, population)
        print(f"first call of value_and_grad, width {width}: {first:.1f} s")
        results.append(dict(width=width, case="first call", seconds=first))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
