"""What one accelerator makes of the engine.

    python -m benchmarks.accelerator [PART ...] [--json FILE]

The parts, each with its own table; without names, all of them:

- `forward`: perturbed members of a wide bfloat16 MLP beside pure inference of their
  rows, noise drawn within the call (arXiv 2511.16652 has 0.69 of inference so, and 0.91
  with noise that is stored), and where the kernels' time goes.
- `mesh`: a step on a mesh of this one device beside the same without a mesh.
- `language`: the integer language model, in tokens a second, as its population grows.
- `bits`: noise and the integer model, against what the CPU beside it computes.

Cases of a table take turns; figures are medians of wall-clock seconds.
"""

import argparse
import collections
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.profiler import ProfileData

import eggroll
from benchmarks import forward, language
from eggroll import EvolutionStrategy, IntegerStrategy, runs
from models.egg import Egg


Call = Callable[[], Any]
FORWARD = ((8192, 8192), (8192, 2048), (2048, 8192))  # width, population
MESH = ((256, 4096), (2048, 4096))
POPULATIONS = tuple(2**n for n in range(12, 19, 2))
EGG = language.Size(layers=6, width=256, group=16, tokens=50)
REPETITIONS = 15
ONE = jax.devices()[0]


def wide(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Perturbed inference beside pure inference."""
    for width, population in options.forward:
        table = forward.cases(width, population, 1, dtype=jnp.bfloat16)
        table = {name: x for name, x in table.items() if "full rank" not in name}
        found = turns(table, options.repetitions)
        pure = found["pure inference"]
        operations = 2 * forward.DEPTH * population * width**2
        print(f"\nwidth {width}, population {population}, bfloat16")
        for name, seconds in found.items():
            rate = operations / seconds / 1e12
            print(
                f"  {name:20} {1e3 * seconds:8.2f} ms {pure / seconds:6.3f} "
                f"({rate:.0f} Tflop/s of the matmuls)"
            )
            yield dict(width=width, population=population, case=name, seconds=seconds)
        for name in ("pure inference", "rademacher, rank 1"):
            print(f"  kernels of {name}:")
            for kernel, seconds in kernels(table[name]):
                print(f"    {1e3 * seconds:8.3f} ms {kernel[:90]}")


def on_a_mesh(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A whole step with a mesh of one device and without one."""
    for width, population in options.mesh:
        meshes = {"no mesh": None, "a mesh of one": eggroll.population_mesh([ONE])}
        calls = {name: step(width, population, mesh) for name, mesh in meshes.items()}
        found = turns(calls, options.repetitions)
        ratio = found["a mesh of one"] / found["no mesh"]
        print(f"\nstep, width {width}, population {population}")
        for name, seconds in found.items():
            print(f"  {name:20} {1e3 * seconds:8.2f} ms")
            yield dict(width=width, population=population, case=name, seconds=seconds)
        print(f"  a mesh of one takes {ratio:.3f} of the time")


def step(width: int, population: int, mesh: Any) -> Call:
    """A step of the MLP, all members on the same row."""
    params, apply = forward.model(width, jnp.bfloat16)
    inputs = jax.random.normal(jax.random.key(1), (width,), jnp.bfloat16)
    loss = lambda p, x: jnp.mean(apply(p, x).astype(jnp.float32) ** 2)
    es, optimizer = EvolutionStrategy(population, 0.01, mesh=mesh), optax.adam(1e-3)

    @jax.jit
    def run(params, state, key):
        value, grads = es.value_and_grad(loss)(params, key, inputs)
        updates, state = optimizer.update(grads, state, params)
        return value, optax.apply_updates(params, updates), state

    return lambda: run(params, optimizer.init(params), jax.random.key(2))


def integers(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The integer language model, for one population after the other."""
    for population in options.populations:
        size = dataclasses.replace(EGG, population=population)
        try:
            table = language.cases(size)
            found = turns(table, max(3, options.repetitions // 3))
        except jax.errors.JaxRuntimeError as error:
            reason = str(error).partition("\n")[0]
            print(f"\nEGG 6x256, population {population}: {reason[:200]}")
            yield dict(population=population, failed=reason)
            return
        tokens = population * size.tokens
        print(f"\nEGG 6x256, population {population}")
        for name, seconds in found.items():
            print(
                f"  {name:10} {tokens / seconds:14,.0f} tokens/s "
                f"{found['forward'] / seconds:6.3f} of forward"
            )
            yield dict(population=population, case=name, seconds=seconds)
        if population in (options.populations[0], options.populations[-1]):
            print("  kernels of a step:")
            for kernel, seconds in kernels(table["step"]):
                print(f"    {1e3 * seconds:8.3f} ms {kernel[:90]}")


def bits(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Whether this device computes what the CPU computes, where it must."""
    del options
    model, members = Egg(2, 64), 256
    es = IntegerStrategy(members)
    text = jax.random.randint(jax.random.key(1), (members, 33), 1, 256)

    def learn() -> Any:
        params = model.init(jax.random.key(0))
        rule = eggroll.accumulating()
        kept = rule.init(params)
        read = lambda p, t: model.log_likelihood(p, model.initial_state(), t)[0]

        @jax.jit
        def step(params, kept, i):
            fitness, generation = es.ask(read, in_axes=0)(
                params, jax.random.key(2), text.astype(jnp.uint8), step=i
            )
            votes, std = es.votes(generation, fitness), es.vote_std(generation)
            params, kept, *_ = rule.update(votes, kept, params, i, std)
            return params, kept, fitness

        fitness = None
        for i in range(10):
            params, kept, fitness = step(params, kept, jnp.int32(i))
        return jax.device_get((params, fitness))

    found = {}
    for platform in (jax.default_backend(), "cpu"):
        with jax.default_device(jax.devices(platform)[0]):
            found[platform] = learn()
    one, other = found.values() if len(found) > 1 else (*found.values(),) * 2
    same = jax.tree.map(lambda x, y: bool((x == y).all()), one, other)
    are_same = all(jax.tree.leaves(same))
    names = " and ".join(found)
    print(f"\n10 steps of integers, bit for bit the same on {names}: {are_same}")
    yield dict(platforms=list(found), are_same=are_same)


PARTS = {"forward": wide, "mesh": on_a_mesh, "language": integers, "bits": bits}


def turns(calls: dict[str, Call], repetitions: int) -> dict[str, float]:
    """Median seconds of each call, taking turns."""
    for call in calls.values():
        jax.block_until_ready(call())
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repetitions):
        for name, call in calls.items():
            times[name].append(forward.seconds(call))
    return {name: statistics.median(values) for name, values in times.items()}


def kernels(call: Call, shown: int = 16, calls: int = 3) -> list[tuple[str, float]]:
    """The dearest kernels of a call, with their seconds, as the profiler has them."""
    totals: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(calls):
                jax.block_until_ready(call())
        for path in Path(folder).rglob("*.xplane.pb"):
            for plane in ProfileData.from_file(str(path)).planes:
                if not plane.name.startswith("/device:"):
                    continue
                for line in plane.lines:
                    if not line.name.startswith("Stream"):
                        continue
                    for event in line.events:
                        totals[event.name] += event.duration_ns
    return [(name, t / 1e9 / calls) for name, t in totals.most_common(shown)]


def pairs(text: str) -> tuple[tuple[int, int], ...]:
    """Reads sizes such as "8192x4096,256x16"."""
    return tuple(
        (int(a), int(b)) for a, b in (one.split("x") for one in text.split(","))
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[])
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--forward", type=pairs, default=FORWARD)
    parser.add_argument("--mesh", type=pairs, default=MESH)
    parser.add_argument("--populations", type=int, nargs="+", default=POPULATIONS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = ONE.device_kind
    print(f"{device}, JAX {jax.__version__}")
    found: dict[str, Any] = {"device": device, "versions": runs.versions()}
    for name in options.parts or PARTS:
        began, found[name] = time.perf_counter(), []
        for figure in PARTS[name](options):
            found[name].append(figure)
            if options.json:
                options.json.write_text(json.dumps(found, indent=1) + "\n")
        print(f"({name}: {time.perf_counter() - began:.0f} s in all)", flush=True)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
