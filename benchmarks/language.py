"""The price of evolving the integer language model, in tokens a second.

    python -m benchmarks.language [--layers 2 --width 64 --population 2048 --group 16]
                                  [--steps 100] [--repetitions 11] [--paper]

"forward" runs the unperturbed model on the same sequences, "perturbed" all members, and
"step" adds the votes and the update. The cases take turns, so that a change of the
machine's speed meets them all; the figures are medians, and the CPU seconds of all
threads beside them, which other processes disturb less. "matmuls" is the rate of the
int8 matmuls alone, and below are three ways to divide in a layer norm.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from eggroll.integer import IntegerStrategy, compiler_options
from eggroll.stepping import accumulating, memoryless
from models.egg import Egg
from models.integer_math import divide, saturate


def cases(options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """The calls to be timed, by name."""
    size, group, tokens = options.population, options.group, options.steps
    rounding = "floor" if options.paper else "nearest"
    model = Egg(options.layers, options.width, rounding=rounding)
    published: Any = dict(noise="truncated", rounding="floor", weighting="sign")
    es = IntegerStrategy(
        size, chunk=options.chunk, **published if options.paper else {}
    )
    rule = memoryless(ties_fall=True) if options.paper else accumulating()
    params, key = model.init(jax.random.key(0)), jax.random.key(1)
    rng = np.random.default_rng(0)
    text = jnp.asarray(rng.integers(1, 256, (size // group, tokens + 1)), jnp.uint8)
    state = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (size, *x.shape)), model.initial_state()
    )
    ask = es.ask(lambda p, t, s: model.log_likelihood(p, s, t), in_axes=0)

    def forward(params, state):
        every = jnp.repeat(text, group, axis=0)
        return jax.vmap(model.log_likelihood, in_axes=(None, 0, 0))(
            params, state, every
        )

    def perturbed(params, state):
        return ask(params, key, text, state, step=3)[0]

    def step(params, state):
        (fitness, state), generation = ask(params, key, text, state, step=3)
        votes, std = es.votes(generation, fitness), es.vote_std(generation)
        return rule.update(votes, rule.init(params), params, jnp.int32(3), std), state

    def matmuls(params, state):
        def one(total, _):
            for weight in jax.tree.leaves(params):
                if weight.ndim == 2 and weight is not params["embedding"]:
                    x = jnp.broadcast_to(
                        total.astype(jnp.int8), (size, weight.shape[1])
                    )
                    dims = (((1,), (1,)), ((), ()))
                    dot = lax.dot_general(
                        lax.optimization_barrier(x),
                        weight,
                        dims,
                        preferred_element_type=jnp.int32,
                    )
                    total = total + dot[0, 0] % 3
            return total, None

        return lax.scan(one, jnp.int32(1), None, length=tokens)[0]

    def call(function: Callable) -> Callable[[], Any]:
        compiled = jax.jit(function, compiler_options=compiler_options())
        return lambda: compiled(params, state)

    return {f.__name__: call(f) for f in (forward, perturbed, step, matmuls)}


def divisions(rows: int, width: int) -> dict[str, Callable[[], Any]]:
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


def medians(
    calls: dict[str, Callable[[], Any]], repetitions: int
) -> dict[str, tuple[float, float]]:
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
    return {
        name: (
            statistics.median(w for w, _ in all_),
            statistics.median(c for _, c in all_),
        )
        for name, all_ in times.items()
    }


def operations(layers: int, width: int) -> int:
    """Multiplications and additions of the matmuls, per token."""
    return 2 * (layers * 12 * width**2 + 256 * width)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (
        ("layers", 2),
        ("width", 64),
        ("population", 2048),
        ("group", 16),
        ("steps", 100),
        ("repetitions", 11),
        ("chunk", None),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--paper", action="store_true")
    options = parser.parse_args()
    tokens = options.population * options.steps
    found = medians(cases(options), options.repetitions)
    pure = found["forward"]
    needed = operations(options.layers, options.width)
    for name, (wall, cpu) in found.items():
        print(
            f"{name:<10} {tokens / wall:>11,.0f} tokens/s {pure[0] / wall:>6.2f} of "
            f"forward; CPU {1e6 * cpu / tokens:.2f} us a token, {pure[1] / cpu:.2f}; "
            f"{needed * tokens / wall / 1e9:,.0f} GOP/s"
        )
    rows = min(options.population, 2048)
    for name, (wall, _) in medians(divisions(rows, options.width), 101).items():
        print(f"{name:<14} {1e6 * wall:8.0f} us for {rows} rows of {options.width}")


if __name__ == "__main__":
    main()
