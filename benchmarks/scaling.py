"""What a step takes of each device, as populations, meshes and models grow.

    python -m benchmarks.scaling measure [--json FILE]   (minutes)
    python -m benchmarks.scaling sizes [--json FILE]     (minutes; compiles alone)
    python -m benchmarks.scaling plan

`measure` times steps of a small MLP on this machine against population, rank and
(simulated) devices, and fits exponents. `sizes` lowers and compiles a whole step for
language models of 4 and 7 billion parameters on meshes of up to 64 devices, and reads
from the program what it would take; nothing of that size is ever allocated. `plan`
prices updates on hardware that is not here, by the rates below.
"""

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from eggroll.evolution.costs import Rates, Shape, cheapest, of_update


# Rates of one device, assumed, not measured: bfloat16 operations, drawn values, bytes
# to neighbours, bytes to other hosts.
HARDWARE = {
    "8 H100, NVLink": (8, 8, Rates(400e12, 2e12, 300e9)),
    "8 GPUs, Ethernet": (8, 1, Rates(400e12, 2e12, 11e9, 11e9)),
    "64 v5e": (64, 64, Rates(100e12, 0.5e12, 90e9)),
    "256 v5e": (256, 256, Rates(100e12, 0.5e12, 90e9)),
    "1,000 volunteers": (1000, 1, Rates(20e12, 0.2e12, 12.5e6, 12.5e6)),
}
# Qwen2.5-7B differs from its smaller sister in size, and has a head of its own.
SEVEN_BILLION = {
    "width": 3584,
    "layers": 28,
    "heads": 28,
    "kv_heads": 4,
    "feedforward": 18_944,
    "vocabulary": 152_064,
    "tied": False,
}
MODELS = {"qwen3-4b": ("qwen3-4b", {}), "qwen2.5-7b": ("qwen2.5-3b", SEVEN_BILLION)}
MESHES = ((2, 4), (8, 1), (1, 8), (8, 8))
POPULATION, TOKENS, CHUNK = 1024, 32, 4
POPULATIONS = tuple(2**n for n in range(12, 21, 2))


def plan(parameters: float = 7e9, width: int = 4096, population: int = 2**20) -> str:
    """A table of an update of a large model in bfloat16, by hardware and way."""
    ways = ("reduce", "scatter", "replay")
    lines = [f"| hardware | {' | '.join(ways)} | cheapest |", "|---|---|---|---|---|"]
    for name, (devices, group, rates) in HARDWARE.items():
        shape = Shape(
            weights=parameters,
            bytes=2 * parameters,
            products=parameters,
            values=2 * parameters / width,
            pairs=population / 2,
            devices=devices,
            group=group,
        )
        costs = of_update(shape, rates)
        cells = [f"{costs[way]:.3g} s" for way in ways]
        lines.append(f"| {name} | {' | '.join(cells)} | {cheapest(costs)} |")
    return "\n".join(lines)


# --- Sizes


def sizes() -> list[dict[str, Any]]:
    """What a step of each model takes on each mesh, each in a process of its own."""
    return [
        _in_process("size", name, population * model, str(population), str(model), way)
        for name in MODELS
        for population, model in MESHES
        for way in (("reduce", "scatter") if population > 1 else ("reduce",))
    ]


def size(name: str, population: int, model: int, way: str) -> dict[str, Any]:
    """Lowers and compiles a step of a published model."""
    import jax
    import jax.numpy as jnp

    import eggroll
    from eggroll.evolution import compilers
    from models.llm.partition import transformer
    from models.llm.published import PUBLISHED
    from models.llm.scoring import score

    mesh = eggroll.population_mesh(model=model)
    published, changes = MODELS[name]
    network: Any = PUBLISHED[published].model
    config = dataclasses.replace(network.config, **changes)
    network = dataclasses.replace(network, config=config)
    params = jax.eval_shape(
        lambda key: network.init(key, jnp.bfloat16), jax.random.key(0)
    )
    partition = transformer(params)
    lies = eggroll.shardings(params, mesh, partition)
    like = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
    params = jax.tree.map(like, params, lies)
    es = eggroll.EvolutionStrategy(
        POPULATION,
        0.01,
        mesh=mesh,
        partition=partition,
        chunk_size=CHUNK,
        update=cast(Any, way),
    )

    def loss(params, tokens):
        starts, ends = jnp.array([1]), jnp.array([TOKENS])
        return -score(network, params, tokens, ends, starts).mean()

    def step(params, key, tokens):
        _, grads = es.value_and_grad(loss, value="members")(params, key, tokens)
        return jax.tree.map(lambda p, g: (p - 1e-3 * g).astype(p.dtype), params, grads)

    tokens = jax.ShapeDtypeStruct((1, TOKENS), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    start, cpu = time.perf_counter(), time.process_time()
    options = compilers.frugal()
    run = jax.jit(step, out_shardings=lies, donate_argnums=0, compiler_options=options)
    compiled = run.lower(params, key, tokens).compile()
    memory: Any = compiled.memory_analysis()
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
    return {
        "model": name,
        "parameters": count,
        "mesh": [population, model],
        "update": way,
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time() - cpu,
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
    }


def table_of_sizes(rows: Sequence[dict[str, Any]]) -> str:
    head = "| model | mesh | update | compiled in | parameters | temporaries, each |"
    lines = [head, "|---|---|---|---|---|---|"]
    for row in rows:
        mesh = "×".join(map(str, row["mesh"]))
        gib = lambda name, row=row: f"{row[name] / 2**30:.2f} GiB"
        seconds = f"{row['processor_seconds']:.0f} s of a processor"
        cells = [row["model"], mesh, row["update"], seconds]
        cells += [gib("arguments"), gib("temporaries")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# --- Times


def measure() -> list[dict[str, Any]]:
    """Steps of a small MLP, by population, rank and devices."""
    rows = [_in_process("step", "1", 1, str(n), "1") for n in POPULATIONS]
    for rank in ("4", "16", "full"):
        rows.append(_in_process("step", rank, 1, str(2**12), "1"))
    for devices in (2, 4, 8):
        rows.append(_in_process("step", "1", devices, str(2**14), str(devices)))
    return rows


def step(rank: str, population: int, devices: int) -> dict[str, Any]:
    """Times a step on so many devices, and counts what each computes."""
    import jax
    import jax.numpy as jnp

    import eggroll

    mesh = eggroll.population_mesh(jax.devices()[:devices])
    shapes = {"a": (16, 64), "b": (64, 64), "c": (64, 1)}
    params = {k: jax.random.normal(jax.random.key(1), s) / 8 for k, s in shapes.items()}
    es = eggroll.EvolutionStrategy(
        population, 0.05, mesh=mesh, rank=None if rank == "full" else int(rank)
    )
    x = jnp.ones((4, 16))
    loss = lambda p, x: jnp.mean(jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"])
    run: Any = jax.jit(es.grad(loss)).lower(params, jax.random.key(0), x).compile()
    times = []
    for _ in range(4):
        start = time.process_time()
        jax.block_until_ready(run(params, jax.random.key(0), x))
        times.append(time.process_time() - start)
    return {
        "rank": rank,
        "population": population,
        "devices": devices,
        "processor_seconds": min(times),
        "flops_a_device": run.cost_analysis()["flops"],
    }


def table_of_times(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| population | rank | devices | processor seconds |", "|---|---|---|---|"]
    for row in rows:
        cells = [f"{row['population']:,}", row["rank"], str(row["devices"])]
        lines.append(f"| {' | '.join(cells)} | {row['processor_seconds']:.3g} |")
    return "\n".join([*lines, "", *_exponents(rows)])


def _exponents(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """How times and operations grow; with the rank, operations beyond the model's."""
    of = lambda name, some: [row[name] for row in some]
    alone = [r for r in rows if r["devices"] == 1 and r["rank"] == "1"]
    population = of("population", alone)
    seconds = _exponent(population, of("processor_seconds", alone))
    yield f"seconds grow with the population as its power {seconds:.2f}"
    flops = _exponent(population, of("flops_a_device", alone))
    yield f"operations with the population: {flops:.3f}"
    spread = [r for r in rows if r["population"] == 2**14]
    flops = _exponent(of("devices", spread), of("flops_a_device", spread))
    yield f"operations of a device with the devices: {flops:.3f}"
    ranked = [r for r in rows if r["population"] == 2**12 and r["rank"] != "full"]
    ranks, flops = [int(r["rank"]) for r in ranked], of("flops_a_device", ranked)
    shared = flops[0] - (flops[1] - flops[0]) / (ranks[1] - ranks[0]) * ranks[0]
    beyond = _exponent(ranks, [x - shared for x in flops])
    yield f"operations beyond those of any rank with the rank: {beyond:.3f}"


def _exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of log y over log x, by least squares."""
    x, y = [math.log(one) for one in x], [math.log(one) for one in y]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return above / sum((a - mx) ** 2 for a in x)


def _in_process(what: str, name: str, devices: int, *case: str) -> dict[str, Any]:
    """One case, in a process that has so many simulated devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "benchmarks.scaling", what, name, *case]
    env = os.environ | {"XLA_FLAGS": flags}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    row = json.loads(done.stdout.splitlines()[-1])
    print(row, file=sys.stderr, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("measure", "sizes", "plan", "size", "step"))
    parser.add_argument("case", nargs="*", help="of size and step: see the code")
    parser.add_argument("--json", type=Path, help="where raw figures go")
    options = parser.parse_args()
    if options.what in ("size", "step"):
        name, *numbers = options.case
        run = size if options.what == "size" else step
        values: Any = [int(x) if x.isdigit() else x for x in numbers]
        print(json.dumps(run(name, *values)))
        return
    if options.what == "plan":
        print(plan())
        return
    rows = sizes() if options.what == "sizes" else measure()
    print(table_of_sizes(rows) if options.what == "sizes" else table_of_times(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
