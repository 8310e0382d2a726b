"""The price of a whole step of evolution, relative to plain inference of its rows.

    python -m benchmarks.step [--repetitions 11] [--json FILE]

An unmodified Flax MLP of four layers, all members on the same rows: `value_and_grad`
and SGD, noise drawn and contracted within, beside the plain network on as many rows.
The cases of a table take turns; the figure is the ratio of medians, of processor time.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import eggroll
from benchmarks.forward import MLP
from eggroll.evolution.distributions import Noise


CASES = ((256, 1024, 16), (256, 4096, 1), (1024, 256, 16))


def cases(width: int, population: int, rows: int) -> dict[str, Callable[[], Any]]:
    """The calls to be timed, by name."""
    graph, params = nnx.split(MLP(width, nnx.Rngs(0)))
    inputs = jax.random.normal(jax.random.key(1), (rows, width))
    every = jnp.tile(inputs, (population, 1))
    apply = lambda params, x: nnx.merge(graph, params)(x)
    loss = lambda params, x: jnp.mean(apply(params, x) ** 2)
    optimizer = optax.sgd(0.01)

    def step(noise: Noise) -> Callable[[], Any]:
        es = eggroll.EvolutionStrategy(population, sigma=0.01, noise=noise)

        @jax.jit
        def run(params: Any, key: Any) -> Any:
            value, grads = es.value_and_grad(loss)(params, key, inputs)
            updates, _ = optimizer.update(grads, optimizer.init(params), params)
            return value, optax.apply_updates(params, updates)

        return lambda: run(params, jax.random.key(2))

    plain = jax.jit(apply)
    return {
        "plain inference": lambda: plain(params, every),
        "rademacher": step("rademacher"),
        "gaussian": step("gaussian"),
    }


def measure(calls: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """Medians of each call's processor seconds, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    for _ in range(repetitions):
        for name, call in calls.items():
            began = time.process_time()
            jax.block_until_ready(call())
            times[name].append(time.process_time() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=11)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = {}
    for case in CASES:
        name = "width {}, {:,} members, {} rows".format(*case)
        found[name] = measure(cases(*case), arguments.repetitions)
        plain, *steps = found[name].items()
        ratios = ", ".join(f"{k} {v / plain[1]:.2f}" for k, v in steps)
        print(f"{name}: plain {1e3 * plain[1]:.1f} ms; {ratios}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
