"""Runs of the configs in `configs/rl` by another algorithm, seed and budget."""

import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

from eggroll import runs, training
from eggroll.config import Config, load
from eggroll.runs import atomic, metrics


ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "control"
ALGORITHMS = ("eggroll", "openes", "ppo")
VALIDATIONS = 10  # of PPO, whose updates take few frames

Changes = tuple[tuple[str, str], ...]  # as on the command line
Result = dict[str, Any]


def config_of(name: str, algorithm: str, *changes: tuple[str, str]) -> Config:
    path = ROOT / "configs" / "rl" / f"{name}.yaml"
    changes = (("algorithm", algorithm), ("diagnose_every", "0"), *changes)
    return load(path, changes, name=name)


def train(
    name: str, algorithm: str, seed: int, frames: float, *changes: tuple[str, str]
) -> Result:
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
        ppo = config_of(name, "ppo", *changes).task.options["ppo"]
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


class Comparison:
    """All of one algorithm in one environment, in one file.

    Attributes:
        trials: of the search, in order, with their `settings`.
        runs: of the best settings, by seed.
    """

    def __init__(self, name: str, algorithm: str):
        self._path = RESULTS / f"{name}.{algorithm}.json"
        known = json.loads(self._path.read_text()) if self._path.exists() else {}
        self.trials: list[Result] = known.get("trials", [])
        self.runs: list[Result] = known.get("runs", [])

    def keep(self) -> None:
        parts = (
            f'"{kind}": [\n' + ",\n".join(json.dumps(one) for one in found) + "\n]"
            for kind, found in (("trials", self.trials), ("runs", self.runs))
        )
        atomic.write_text(self._path, "{" + ",\n".join(parts) + "}\n")


def mean_and_error(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return statistics.fmean(values), float("nan")
    return statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5
