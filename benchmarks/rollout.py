"""What it costs to run a population's episodes, against one shared policy's.

    python -m benchmarks.rollout

Environment steps per second with a 3x256 policy and 1024 members (`--members`), over
those of the same rollout with one unperturbed policy for all: pure batched inference.
Episodes cannot end before their 100 steps (`--steps`), so that both sides do the same
work; the two sides take turns, and medians are compared.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import eggroll
from tasks.control import Control


ENDLESS = {
    "gymnax/CartPole-v1": {"theta_threshold_radians": 1e9, "x_threshold": 1e9},
    "navix/DoorKey-8x8-v0": {},
}


def seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - started


def sides(task: Control, members: int, noise: Any) -> dict[str, Callable[[], Any]]:
    key, params = jax.random.key(0), task.init(jax.random.key(1))
    data = task.batch(task.initial_state(), 0, key)

    def steps(params, data, key):
        fitness, _, aux = task.evaluate(params, data, (), key)
        return fitness, aux["steps"]

    es = eggroll.EvolutionStrategy(population=members, sigma=0.05, rank=1, noise=noise)
    population = jax.jit(lambda key: es.ask(steps)(params, key, data)[0])
    pairs = jax.random.split(key, members // 2)[jnp.arange(members) // 2]
    shared = jax.jit(lambda keys: jax.vmap(lambda k: steps(params, data, k))(keys))
    return {"shared": lambda: shared(pairs), "population": lambda: population(key)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    print("environment             noise        shared/s  population/s   ratio")
    for name, options in ENDLESS.items():
        task = Control(
            environment=name,
            environment_options=options,
            hidden=(256, 256, 256),
            max_steps=arguments.steps,
        )
        for noise in ("rademacher", "gaussian"):
            calls = sides(task, arguments.members, noise)
            counts = {one: int(call()[1].sum()) for one, call in calls.items()}
            times = {one: [] for one in calls}
            for _ in range(arguments.repeats):
                for one, call in calls.items():
                    times[one].append(seconds(call))
            rates = {one: counts[one] / statistics.median(times[one]) for one in calls}
            ratio = rates["population"] / rates["shared"]
            print(
                f"{name:<22}  {noise:<10}  {rates['shared']:>9,.0f}  "
                f"{rates['population']:>12,.0f}  {ratio:>6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
