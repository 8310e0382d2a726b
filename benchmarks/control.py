"""The paper's comparison in miniature: EGGROLL, OpenES and PPO on equal frames.

    python -m benchmarks.control run [--only NAME...]   # an hour or two; resumable
    python -m benchmarks.control table                  # from what is saved

Each run is that of a config in `configs/rl`, with another algorithm, seed and budget of
frames. Its figures are saved when it ends, in `benchmarks/results/control`, and it is
not run again. What else the machine does falsifies the times, so the cost of a step is
measured apart, with the algorithms in turns, and it is their ratio that is told: once
with each config's network, and once with the paper's, 3 layers of 256.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt

from eggroll import runs, training
from eggroll.config import Config, load
from eggroll.runs import metrics


ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "control"
ALGORITHMS = ("eggroll", "openes", "ppo")
PAPER = "[256, 256, 256]"  # hidden layers
FRAMES = {  # by config
    "cartpole": 1e6,
    "acrobot": 5e6,
    "pendulum": 8e6,
    "navix_empty": 3e6,
    "navix_doorkey": 1e7,
    "minatar_breakout": 3e6,
    "inverted_double_pendulum": 5e6,
    "game2048": 6e6,
}
SEEDS = {"cartpole": 5, "acrobot": 5, "navix_empty": 5}  # under a minute; others: 3
VALIDATIONS = 30  # of PPO, whose updates take few frames


def file_of(name: str, algorithm: str, seed: int) -> Path:
    return RESULTS / f"{name}.{algorithm}.{seed}.json"


def config_of(name: str, algorithm: str, *changes: tuple[str, str]) -> Config:
    path = ROOT / "configs" / "rl" / f"{name}.yaml"
    changes = (("algorithm", algorithm), ("diagnose_every", "0"), *changes)
    return load(path, changes, name=name)


def train(
    name: str, algorithm: str, seed: int, frames: float, *changes: tuple[str, str]
) -> dict[str, Any]:
    """One run; returns its curve and where it ended."""
    changes = (
        ("seed", str(seed)),
        ("budget.generations", "null"),
        ("budget.seconds", "null"),
        ("budget.target", "null"),
        ("budget.samples", str(frames)),
        ("checkpoint_every", "1000000"),
        *changes,
    )
    if algorithm == "ppo":
        ppo = config_of(name, "ppo").task.options["ppo"]
        updates = frames / (ppo.workers * ppo.steps)
        changes += (("evaluate_every", str(math.ceil(updates / VALIDATIONS))),)
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(name, algorithm, ("output", folder), *changes)
        run = runs.create(config)
        outcome = training.train(training.prepare(config), run)
        if outcome.stop is training.Stop.INTERRUPT:
            raise SystemExit("stopped amid a run, which is not saved")
        rows = [row for row in metrics.read(run.metrics) if "validation/return" in row]
    curve = [
        {
            "frames": row["samples"],
            "seconds": row["training_seconds"],
            "return": row["validation/return"],
        }
        for row in rows
    ]
    final, progress = outcome.validation, outcome.progress
    return {
        "environment": config.task.options["environment"],
        "return": final["return"],
        "seconds": progress.training_seconds,
        "frames": progress.samples,
        "updates": int(outcome.state.step),
        "versions": runs.versions(),
        "curve": curve,
    }


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


def measure_speeds(names: list[str]) -> None:
    path = RESULTS / "speed.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    for name in names:
        if name not in known:
            known[name] = {
                "config": speeds(name),
                "paper": speeds(
                    name, ("task.hidden", PAPER), ("task.max_steps", "50"), repeats=3
                ),
            }
            path.write_text(json.dumps(known, indent=1) + "\n")
            print(f"{name}: {known[name]}", flush=True)


def run(names: list[str]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in range(max(SEEDS.values())):
        for name in names:
            for algorithm in ALGORITHMS if seed < SEEDS.get(name, 3) else ():
                path = file_of(name, algorithm, seed)
                if path.exists():
                    continue
                result = train(name, algorithm, seed, FRAMES[name])
                path.write_text(json.dumps(result) + "\n")
                print(
                    f"{name} {algorithm} seed {seed}: {result['return']:.1f} in "
                    f"{result['seconds']:.0f} s",
                    flush=True,
                )
    measure_speeds(names)


def saved(name: str, algorithm: str) -> list[dict[str, Any]]:
    found = sorted(RESULTS.glob(f"{name}.{algorithm}.*.json"))
    return [json.loads(path.read_text()) for path in found]


def mean_and_error(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return statistics.fmean(values), float("nan")
    return statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5


def in_words(values: list[float]) -> str:
    mean, error = mean_and_error(values)
    wide = error >= 100
    return f"{mean:.0f} ± {error:.0f}" if wide else f"{mean:.4g} ± {error:.2g}"


def table() -> None:
    print("| environment | frames | " + " | ".join(ALGORITHMS) + " |")
    print("|---" * (2 + len(ALGORITHMS)) + "|")
    for name, frames in FRAMES.items():
        cells = []
        for algorithm in ALGORITHMS:
            results = saved(name, algorithm)
            if not results:
                cells.append("-")
                continue
            returns = in_words([one["return"] for one in results])
            seconds, _ = mean_and_error([one["seconds"] for one in results])
            cells.append(f"{returns} ({len(results)} seeds, {seconds:.0f} s)")
        print(f"| {name} | {frames:.0e} | " + " | ".join(cells) + " |")


def speed_table() -> None:
    path = RESULTS / "speed.json"
    if not path.exists():
        return
    print("\n| environment | EGGROLL, frames/s | over OpenES | over PPO |", end="")
    print(" 3x256: EGGROLL, frames/s | over OpenES | over PPO |")
    print("|---|---|---|---|---|---|---|")
    for name, rates in json.loads(path.read_text()).items():
        cells = [name]
        for found in rates.values():
            own = found["eggroll"]
            cells.append(f"{own:,.0f}")
            cells += [f"{own / found[other]:.2g}" for other in ("openes", "ppo")]
        print("| " + " | ".join(cells) + " |")


def figure() -> None:
    names = [name for name in FRAMES if any(saved(name, one) for one in ALGORITHMS)]
    if not names:
        return
    across = 4
    blocks = -(-len(names) // across)
    plot, axes = plt.subplots(
        2 * blocks,
        across,
        figsize=(12, 5 * blocks),
        squeeze=False,
        layout="constrained",
    )
    for place, name in enumerate(names):
        for below, unit in enumerate(("frames", "seconds")):
            axis = axes[2 * (place // across) + below, place % across]
            for index, algorithm in enumerate(ALGORITHMS):
                for number, result in enumerate(saved(name, algorithm)):
                    axis.plot(
                        [point[unit] for point in result["curve"]],
                        [point["return"] for point in result["curve"]],
                        color=f"C{index}",
                        alpha=0.7,
                        label=None if number else algorithm,
                    )
            axis.set_xlabel(unit)
            axis.set_title("" if below else name)
    axes[0, 0].legend()
    axes[0, 0].set_ylabel("return")
    plot.savefig(RESULTS / "curves.png", dpi=120)
    print(RESULTS.relative_to(ROOT) / "curves.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("--only", nargs="+", choices=list(FRAMES), default=list(FRAMES))
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.only)
    table()
    speed_table()
    figure()


if __name__ == "__main__":
    main()
