"""How the integer language model learns, beside its variants and its float relatives.

    python -m benchmarks.pretraining run [--shakespeare FILE]   # an hour; resumable
    python -m benchmarks.pretraining time     # of a step: minutes; run it alone
    python -m benchmarks.pretraining table    # from what is saved

Each run is one of `configs/language` with other settings, below. Its curve is saved in
`benchmarks/results/language` when it ends, and it is not run again.

"python" sets integers beside floats on the standard library's source: the same 128
lanes of 100 bytes a step for all. The learning rate of each float baseline is the best
of at least three short runs, a factor of 3 apart, that do not end at a border. The
integer model keeps its default settings, which were chosen on tinyshakespeare.

"shakespeare" needs that text as a file; 90 % are learnt from, in documents of 40
speeches. There the integer model meets the published program, which after 100 steps
with 2,048 members needs 4.32 bits a byte.
"""

import argparse
import dataclasses
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from benchmarks import pretraining_report as report
from eggroll import UserError, runs, training
from eggroll.config import load
from eggroll.runs import metrics
from eggroll.training import Stop


ROOT = Path(__file__).parent.parent
# Steps of a run that chooses a rate, of the long ones, and of those on tinyshakespeare.
SHORT, FLOAT, INTEGER, LADDER = 40, 200, 300, 100
BEGIN = {"gru": 0.01, "transformer": 0.003}  # where the search for Adam's rate starts


@dataclasses.dataclass(frozen=True)
class Case:
    """One run: a config, and the settings that it changes."""

    corpus: str
    name: str
    steps: int
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0

    @property
    def path(self) -> Path:
        name = self.name.replace(",", "").replace(" ", "-")
        return report.RESULTS / f"{self.corpus}.{name}.{self.seed}.json"


PAPER = {"stepping.paper": True}
VARIANTS = {  # of the update, from the published program to the default
    "paper": PAPER,
    "memoryless, sign, gaussian": {
        "rule": "memoryless", "weighting": "sign", "strategy.noise": "gaussian",
    },
    "memoryless, sign": {"rule": "memoryless", "weighting": "sign"},
    "memoryless": {"rule": "memoryless"},
    "sign": {"weighting": "sign"},
    "default": {},
}  # fmt: skip


def shakespeare(population: int, name: str, seed: int = 0) -> Case:
    changes = {"population": population, "lanes": population // 16}
    return Case(
        "shakespeare",
        f"{name} {population}",
        LADDER,
        changes | VARIANTS[name],
        seed,
    )


def shakespeare_cases() -> Iterator[Case]:
    for seed in range(3):
        for name in VARIANTS:
            yield shakespeare(2048, name, seed)
    for population in (64, 512, 4096, 32768):
        for name in ("default", "paper"):
            yield shakespeare(population, name)


INTEGERS = {
    "EGG, default": {},
    "EGG, memoryless": {"rule": "memoryless"},
    "EGG, paper": PAPER,
}
BASELINES = {  # with the rate at which the search starts
    f"{model}, {optimizer}": (
        {"algorithm": "backprop", "model": model, "optimizer": optimizer},
        rate if optimizer == "adam" else 0.15,
    )
    for model, rate in BEGIN.items()
    for optimizer in ("adam", "sgd")
} | {"gru, EGGROLL": ({"algorithm": "eggroll", "model": "gru"}, 0.01)}


def tuned(name: str) -> Case:
    """The long run of a baseline, after the short ones that choose its rate."""
    changes, rate = BASELINES[name]
    final: dict[float, float] = {}

    def at(rate: float) -> float:
        if rate not in final:
            short = {**changes, "learning_rate": rate}
            case = Case("python", f"{name}, rate {rate:.2g}", SHORT, short)
            reached = result(case)["bits/byte"]
            final[rate] = math.inf if reached is None else reached
        return final[rate]

    ladder = lambda step: float(f"{rate * 3**step:.2g}")
    best = min((-1, 0, 1), key=lambda step: at(ladder(step)))
    while (better := min((best - 1, best, best + 1), key=lambda s: at(ladder(s)))) != (
        best
    ):
        best = better
    return Case("python", name, FLOAT, {**changes, "learning_rate": ladder(best)})


def config_of(case: Case, folder: str, corpus: str | None) -> Any:
    """The settings of a case; its runs go below `folder`."""
    common: dict[str, Any] = {
        "seed": case.seed,
        "output": folder,
        "budget.seconds": "null",
        "generations": case.steps,
        "diagnose_every": 0,
        "checkpoint_every": 1_000_000,
        "evaluate_every": 10 if case.corpus == "shakespeare" else min(case.steps, 50),
    }
    if case.corpus == "shakespeare":
        common |= {"corpus": corpus, "paragraphs": 40}
    changes = {**common, **case.changes}
    return load(
        ROOT / "configs" / "language" / "pretrain.yaml",
        [(key, str(value)) for key, value in changes.items()],
        name="run",
    )


def train(case: Case, corpus: str | None) -> dict[str, Any]:
    """One run: its curve, and what is known of its text before learning."""
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(case, folder, corpus)
        experiment, run = training.prepare(config), runs.create(config)
        try:
            if training.train(experiment, run).stop is Stop.INTERRUPT:
                raise KeyboardInterrupt
        except UserError as error:  # of a rate that is too large
            print(f"{case.name}: {error}", flush=True)
        rows = [row for row in metrics.read(run.metrics) if report.METRIC in row]
    curve = [
        {
            "step": row["step"],
            "tokens": row["samples"],
            "seconds": row["training_seconds"],
            "bits/byte": row[report.METRIC],
        }
        for row in rows
    ]
    is_done = curve[-1]["step"] == case.steps  # else it has diverged
    return {
        "case": case.name,
        "seed": case.seed,
        "changes": case.changes,
        "bits/byte": curve[-1]["bits/byte"] if is_done else None,
        "seconds": curve[-1]["seconds"],
        "reference": dict(experiment.task.reference),
        "versions": runs.versions(),
        "curve": curve,
    }


def result(case: Case, corpus: str | None = None) -> dict[str, Any]:
    """A run's figures, from its file if it has been made before."""
    if case.path.exists():
        figures = json.loads(case.path.read_text())
        if figures["changes"] == case.changes:
            return figures
    report.RESULTS.mkdir(parents=True, exist_ok=True)
    figures = train(case, corpus)
    case.path.write_text(json.dumps(figures) + "\n")
    print(
        f"{case.corpus}: {case.name}, seed {case.seed}: "
        f"{figures['bits/byte']} bits/byte, {figures['seconds']:.0f} s",
        flush=True,
    )
    return figures


def python_cases() -> Iterator[Case]:
    for name, changes in INTEGERS.items():
        yield Case("python", name, INTEGER, changes)
    for name in BASELINES:
        yield tuned(name)


def run(corpus: str | None) -> None:
    for case in python_cases():
        result(case)
    if corpus is None:
        print("without --shakespeare FILE the comparisons on that text are left out")
        return
    for case in shakespeare_cases():
        result(case, corpus)


def time_steps(repetitions: int = 10) -> None:
    """Saves the median seconds of a step of each long run, taking turns."""
    calls, times = {}, {}
    for name, one in report.long_runs().items():
        case = Case("python", name, 1, one["changes"])
        with tempfile.TemporaryDirectory() as folder:
            experiment = training.prepare(config_of(case, folder, None))
        task, algorithm = experiment.task, experiment.algorithm
        state = training.initial_state(experiment)
        data = task.batch(state.task, 0, state.key)
        state, _ = algorithm.step(state, data)
        calls[case.name], times[case.name] = (algorithm.step, state, data), []
    for _ in range(repetitions):
        for name, (step, state, data) in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(step(state, data))
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    report.SECONDS.write_text(json.dumps(medians, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["run", "time", "table"])
    parser.add_argument("--shakespeare", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.shakespeare or None)
    if arguments.command == "time":
        time_steps()
    report.tables()
    report.figure()


if __name__ == "__main__":
    main()
