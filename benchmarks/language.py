"""The price of evolving the integer language model, in tokens a second.

    python -m benchmarks.language                       # all sizes below; run it alone
    python -m benchmarks.language --only 2x64 --repetitions 3 --devices 2

"forward" runs the unperturbed model on the same sequences, "perturbed" all members,
"step" adds the votes and the update, and "matmuls" are the int8 matmuls alone. The
cases take turns, so that a change of the machine's speed meets them all; the figures
are medians, and the CPU seconds of all threads beside them, which other processes
disturb less. What the cases add to one another is where the time of a step goes. Last
come three ways to divide in a layer norm.

Without options the figures are saved in `benchmarks/results/language-speed.json`.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from eggroll import (
    IntegerStrategy,
    accumulating,
    memoryless,
    population_mesh,
    runs,
)
from eggroll.evolution import sharding
from eggroll.integer import compilation
from models.egg import Egg
from models.integer_math import divide, saturate


RESULTS = Path(__file__).parent / "results" / "language-speed.json"
PUBLISHED: Any = dict(noise="truncated", rounding="floor", weighting="sign")
Calls = dict[str, Callable[[], Any]]


@dataclasses.dataclass(frozen=True)
class Size:
    """A model, and how much it reads in one step."""

    layers: int = 2
    width: int = 64
    is_paper: bool = False
    population: int = 2048
    group: int = 16  # members that read the same sequence
    tokens: int = 100

    @property
    def operations(self) -> int:
        """Multiplications and additions of the matmuls, per token."""
        return 2 * (self.layers * 12 * self.width**2 + 256 * self.width)


SIZES = {
    "2x64": Size(),
    "2x64, paper": Size(is_paper=True),
    "6x256": Size(layers=6, width=256, tokens=50),
}


def cases(size: Size) -> Calls:
    """The calls to be timed, by name."""
    rounding = "floor" if size.is_paper else "nearest"
    model = Egg(size.layers, size.width, rounding=rounding)
    mesh = population_mesh() if jax.device_count() > 1 else None
    members = size.population
    es = IntegerStrategy(members, mesh=mesh, **PUBLISHED if size.is_paper else {})
    rule = memoryless(ties_fall=True) if size.is_paper else accumulating()
    params, key = model.init(jax.random.key(0)), jax.random.key(1)
    rng = np.random.default_rng(0)
    shape = (members // size.group, size.tokens + 1)
    text = jnp.asarray(rng.integers(1, 256, shape), jnp.uint8)
    state = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (members, *x.shape)), model.initial_state()
    )
    ask = es.ask(lambda p, t, s: model.log_likelihood(p, s, t), in_axes=0)
    read = jax.vmap(model.log_likelihood, in_axes=(None, 0, 0))

    def forward(params, state):
        every = jnp.repeat(text, size.group, axis=0)
        return sharding.spread(lambda p, rows: read(p, *rows), mesh)(
            params, (state, every)
        )

    def perturbed(params, state):
        return ask(params, key, text, state, step=3)[0]

    def step(params, state):
        (fitness, state), generation = ask(params, key, text, state, step=3)
        votes, std = es.votes(generation, fitness), es.vote_std(generation)
        return rule.update(votes, rule.init(params), params, jnp.int32(3), std), state

    def matmuls(params, state):
        del state
        each = lambda p, rows: rows + matmuls_of(p, rows.shape[0], size.tokens)
        return sharding.spread(each, mesh)(params, jnp.arange(members))

    def call(function: Callable) -> Callable[[], Any]:
        compiled = compilation.jit(function)
        return lambda: compiled(params, state)

    return {f.__name__: call(f) for f in (forward, perturbed, step, matmuls)}


def matmuls_of(params: Any, rows: int, tokens: int) -> Any:
    """All matmuls of a model on so many rows, each waiting for the one before."""
    weights = [x for x in jax.tree.leaves(params) if x.ndim == 2]
    weights.remove(params["embedding"])  # is looked up

    def one(total, _):
        for weight in weights:
            x = jnp.broadcast_to(total.astype(jnp.int8), (rows, weight.shape[1]))
            dot = lax.dot_general(
                lax.optimization_barrier(x),
                weight,
                (((1,), (1,)), ((), ())),
                preferred_element_type=jnp.int32,
            )
            total = total + dot[0, 0] % 3
        return total, None

    return lax.scan(one, jnp.int32(1), None, length=tokens)[0]


def divisions(rows: int = 2048, width: int = 64) -> Calls:
    """Three ways to divide the rows of a layer norm, each by its own number."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(-(127**2), 127**2, (rows, width)), jnp.int32)
    by = jnp.asarray(rng.integers(1, 128, (rows, 1)), jnp.int32)
    quotients = np.arange(-(2**15), 2**15)[:, None] // np.arange(1, 257)[None]
    table = jnp.asarray(np.clip(quotients, -127, 127), jnp.int8).reshape(-1)

    def by_table(x, by):
        index = (x + 2**15) * 256 + by - 1
        return table.at[index].get(mode="promise_in_bounds")

    def by_division(x, by):
        return saturate(lax.div(x, jnp.broadcast_to(by, x.shape)))

    def by_reciprocal(x, by):
        return divide(x, by, "floor")

    def call(function: Callable) -> Callable[[], Any]:
        compiled = jax.jit(function)
        return lambda: compiled(x, by)

    return {f.__name__: call(f) for f in (by_division, by_table, by_reciprocal)}


def medians(calls: Calls, repetitions: int) -> dict[str, dict[str, float]]:
    """Wall and CPU seconds of each call, in turns."""
    for call in calls.values():
        jax.block_until_ready(call())
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(repetitions):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            spent = time.perf_counter() - wall, time.process_time() - cpu
            times[name].append(spent)
    found = {}
    for name, spent in times.items():
        wall, cpu = (statistics.median(one) for one in zip(*spent, strict=True))
        found[name] = {"wall": wall, "cpu": cpu}
    return found


def measure(name: str, size: Size, repetitions: int) -> dict[str, Any]:
    """Times one size, and prints its table."""
    found = medians(cases(size), repetitions)
    tokens, pure = size.population * size.tokens, found["forward"]
    print(
        f"\n{name}, {size.population} members, {size.operations:,} operations a token"
    )
    for case, seconds in found.items():
        rate = tokens / seconds["wall"]
        ratio, of_cpu = (pure[clock] / seconds[clock] for clock in ("wall", "cpu"))
        print(
            f"  {case:<10} {rate:>11,.0f} tokens/s {ratio:>6.2f} of forward "
            f"(CPU {of_cpu:.2f}); {size.operations * rate / 1e9:,.0f} GOP/s"
        )
    wall = {case: seconds["wall"] for case, seconds in found.items()}
    beside_matmuls = wall["forward"] - wall["matmuls"]
    parts = {
        "int8 matmuls": wall["matmuls"],
        "norms, gates, saturation, loss": beside_matmuls,
        "perturbation: noise and thin products": wall["perturbed"] - wall["forward"],
        "votes and update": wall["step"] - wall["perturbed"],
    }
    for part, seconds in parts.items():
        share = seconds / wall["step"]
        print(f"  {1e6 * seconds / tokens:8.3f} us a token, {share:6.1%}: {part}")
    return {
        "size": name,
        **dataclasses.asdict(size),
        "operations": size.operations,
        "seconds": found,
        "tokens/s": {case: tokens / seconds for case, seconds in wall.items()},
        "share of a step": {part: x / wall["step"] for part, x in parts.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=SIZES)
    parser.add_argument("--repetitions", type=int)
    parser.add_argument("--devices", type=int, help="simulated, of the CPU")
    options = parser.parse_args()
    if options.devices:
        jax.config.update("jax_num_cpu_devices", options.devices)
    results = [
        measure(name, SIZES[name], options.repetitions or (7 if width == 64 else 3))
        for name in options.only or SIZES
        for width in (SIZES[name].width,)
    ]
    ways = medians(divisions(), 101)
    print()
    for name, seconds in ways.items():
        print(f"{name:<14} {1e6 * seconds['wall']:8.0f} us for 2048 rows of 64")
    if options == argparse.Namespace(only=None, repetitions=None, devices=None):
        machine = {"cores": os.cpu_count(), "machine": platform.machine()}
        facts = {**machine, "versions": runs.versions()}
        figures = {**facts, "sizes": results, "divisions": ways}
        RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
        print(f"saved in {RESULTS}")


if __name__ == "__main__":
    main()
