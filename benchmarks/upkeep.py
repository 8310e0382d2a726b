"""What it costs a run to lose nothing: checkpoints, figures, replay log, diagnostics.

    python -m benchmarks.upkeep [--repetitions 5] [--only NAME ...] [--json FILE]

Steps of a run as it is by default, beside those of one that keeps no more than
`metrics.jsonl`: no checkpoint between the first and the last, no replay log, no
diagnosis. The two take turns in one process, and each time is that between two steps,
compilation, validations and the last checkpoint left out. Printed are the medians of
the ratios of neighbours, of seconds and of processor time (in which the work of
checkpoints beside the loop counts). The last case has almost no work to do: what its
steps take is the host's and the upkeep. How much of it is JAX's own, of starting a
step's programs, tells a bare loop of these and of nothing else.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax

from eggroll import runs, training
from eggroll.config import Config, load
from eggroll.training import Purpose, key_for


ROOT = Path(__file__).parents[1]
WARM = 20  # steps that do not count
NEVER = "1000000000"
OFF = {"checkpoint_every": NEVER, "replay_log": "none", "diagnose_every": "0"}


class Case(NamedTuple):
    """A run.

    Attributes:
        config: under `configs`.
        steps: how many count.
        changes: of its settings.
    """

    config: str
    steps: int
    changes: dict[str, str]


CASES = {
    "demo": Case("rl/cartpole.yaml", 200, {}),
    "EGG 2x64, 2,048 members": Case(
        "language/demo.yaml", 100, {"task.validation_lanes": "16"}
    ),
    "10 million parameters": Case(
        "supervised/regression.yaml",
        400,
        {
            "task.hidden": "[1024, 2048, 2048, 1664]",
            "task.validation_size": "16",
            "strategy.population": "16",
            "task.batch_size": "16",
        },
    ),
    "almost no work": Case(
        "supervised/regression.yaml",
        5000,
        {
            "task.hidden": "[4]",
            "task.batch_size": "1",
            "task.validation_size": "1",
            "strategy.population": "2",
        },
    ),
}


class Cost(NamedTuple):
    """Of a step, in milliseconds: of the clock, and of all processors."""

    seconds: float
    processor: float


def config_of(case: Case, folder: str, changes: dict[str, str]) -> Config:
    changes = {
        "budget.generations": str(WARM + case.steps + 1),
        "budget.target": "null",
        "budget.seconds": "null",
        "evaluate_every": NEVER,
        "mesh.devices": "1",
        "output": folder,
        **case.changes,
        **changes,
    }
    return load(ROOT / "configs" / case.config, [*changes.items()])


def now() -> Cost:
    return Cost(1e3 * time.perf_counter(), 1e3 * time.process_time())


def between(stamps: list[Cost]) -> Cost:
    """What a step took on average, the first ones left out."""
    first, last, steps = stamps[WARM], stamps[-1], len(stamps) - 1 - WARM
    return Cost(*((b - a) / steps for a, b in zip(first, last, strict=True)))


def cost(case: Case, folder: str, changes: dict[str, str]) -> Cost:
    """Runs it once."""
    config, stamps = config_of(case, folder, changes), []
    experiment = training.prepare(config)
    beat = lambda: stamps.append(now())
    outcome = training.train(experiment, runs.create(config), beat=beat)
    if outcome.stop is training.Stop.INTERRUPT:
        raise SystemExit("stopped amid a run")
    return between(stamps)


def bare(case: Case, folder: str) -> Cost:
    """Starts the programs of as many steps, and waits for each step's fitness."""
    experiment = training.prepare(config_of(case, folder, OFF))
    state, stamps = training.initial_state(experiment), []
    task, parts = experiment.task, experiment.algorithm.parts
    if parts is None:
        raise SystemExit(
            "one program makes its whole step: there is nothing to compare"
        )
    for step in range(WARM + case.steps + 1):
        data = task.batch(state.task, step, key_for(state.key, Purpose.BATCH, step))
        found = parts.evaluate(state, data)
        state, _ = parts.learn(state, found)
        jax.block_until_ready(found.fitness)
        stamps.append(now())
    return between(stamps)


def measured(case: Case, repetitions: int) -> dict[str, Any]:
    """The figures of one case."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = [
            (cost(case, folder, {}), cost(case, folder, OFF))
            for _ in range(repetitions)
        ]
        alone = [bare(case, folder) for _ in range(repetitions)]
    ratios = [[a / b for a, b in zip(on, off, strict=True)] for on, off in pairs]
    return {
        "milliseconds a step": statistics.median(on.seconds for on, _ in pairs),
        "without": statistics.median(off.seconds for _, off in pairs),
        "bare": statistics.median(one.seconds for one in alone),
        "ratio of seconds": statistics.median(ratio[0] for ratio in ratios),
        "ratio of processor time": statistics.median(ratio[1] for ratio in ratios),
        "ratios": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        found = {}
        for name in options.only:
            found[name] = one = measured(CASES[name], options.repetitions)
            print(
                f"{name}: {one['milliseconds a step']:.2f} ms a step, "
                f"{one['without']:.2f} without, {one['bare']:.2f} bare; ratios "
                f"{one['ratio of seconds']:.3f} of seconds, "
                f"{one['ratio of processor time']:.3f} of processor time",
                flush=True,
            )
            if options.json:
                options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
