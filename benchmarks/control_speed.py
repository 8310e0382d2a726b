"""Frames a second of each algorithm's first step, taken in turns."""

import json
import statistics
import time
from collections.abc import Callable, Sequence

import jax

from benchmarks.control_runs import ALGORITHMS, RESULTS, config_of
from eggroll import training


PATH = RESULTS / "speed.json"
PAPER = "[256, 256, 256]"  # hidden layers


def step_of(name: str, algorithm: str, *changes: tuple[str, str]) -> Callable:
    """Makes a call of the first step, which returns the frames that it took."""
    prepared = training.prepare(config_of(name, algorithm, *changes))
    state = training.initial_state(prepared)
    task, step = prepared.task, prepared.algorithm.step
    data = task.batch(state.task, 0, jax.random.key(0))
    return lambda: float(jax.block_until_ready(step(state, data))[1]["samples"])


def speeds(name: str, *changes: tuple[str, str], repeats: int = 5) -> dict[str, float]:
    """Frames a second of each algorithm's first step: medians, taken in turns."""
    steps = {one: step_of(name, one, *changes) for one in ALGORITHMS}
    for step in steps.values():
        step()  # compiles
    found: dict[str, list[float]] = {one: [] for one in steps}
    for _ in range(repeats):
        for one, step in steps.items():
            started = time.perf_counter()
            frames = step()
            found[one].append(frames / (time.perf_counter() - started))
    return {one: statistics.median(rates) for one, rates in found.items()}


def read() -> dict[str, dict[str, dict[str, float]]]:
    return json.loads(PATH.read_text()) if PATH.exists() else {}


def measure(names: Sequence[str]) -> None:
    """Measures what is not known yet: with the config's network, and the paper's."""
    known = read()
    for name in names:
        if name not in known:
            known[name] = {
                "config": speeds(name),
                "paper": speeds(
                    name, ("task.hidden", PAPER), ("task.max_steps", "50"), repeats=3
                ),
            }
            PATH.write_text(json.dumps(known, indent=1) + "\n")
            print(f"{name}: {known[name]}", flush=True)
