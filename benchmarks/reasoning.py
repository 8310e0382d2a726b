"""Evolution beside gradients and random search, on problems that a program checks.

    python -m benchmarks.reasoning run [--lanes 1]   # ten hours of one core; resumable
    python -m benchmarks.reasoning table             # from what is saved

A small Transformer and a small RWKV-7 that solve a quarter of held-out Countdown
problems (`benchmarks.reasoning_start`) learn on by each of `METHODS`. The settings of
each are the best of four, by what is solved after `SEARCH` seconds with a seed of its
own; then come three seeds of `LONG` seconds. All have one core and the same clock, the
processor's seconds, so that what else runs on the machine counts for nobody;
compilation (the first step) and validation are not counted.

Each run is a process of its own. Its figures are saved in
`benchmarks/results/reasoning` when it ends, and it is not run again.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import queue
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from benchmarks import reasoning_report as report, reasoning_start as start
from eggroll import runs, training
from eggroll.training import Purpose, key_for
from tasks.reasoning.likelihood import Likelihood
from tasks.reasoning.task import Reasoning


SEARCH, LONG, LOOK = 90, 600, 60  # seconds: of a search's run, a long run, a look
SEEDS, SEARCH_SEED = (0, 1, 2), 100


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to learn.

    Attributes:
        settings: that make it.
        search: settings to choose from, four of them.
        task: what it learns.
    """

    settings: Mapping[str, Any]
    search: tuple[Mapping[str, Any], ...]
    task: type = Reasoning


def evolved(sigma: float, population: int) -> dict[str, Any]:
    """1,024 completions a step, which moves a weight by about `SHARE` of sigma."""
    rate = float(f"{SHARE * sigma**2 * population**0.5:.3g}")
    prompts = 1024 // population
    how = {"population": population, "prompts": prompts}
    return {**how, "sigma": sigma, "learning_rate": rate}


# A share of 0.1 or more was seen to lose what had been learnt, at any sigma.
SHARE = 0.03
EVOLUTION = tuple(evolved(s, n) for s in (0.01, 0.02) for n in (64, 256))
METHODS = {
    "EGGROLL": Method({}, EVOLUTION),
    "OpenES": Method({"algorithm": "openes"}, EVOLUTION),
    "GRPO": Method(
        {
            "algorithm": "grpo",
            "optimizer.name": "adam",
            "prompts": 16,
            "completions": 8,
            "temperature": 1.0,
        },
        tuple({"learning_rate": rate} for rate in (3e-6, 1e-5, 3e-5, 1e-4)),
    ),
    "MeZO": Method(
        {
            "algorithm": "openes",
            "population": 2,
            "sigma": 0.001,
            "noise": "gaussian",
            "shaping": "centre",
            "examples": 32,
        },
        tuple({"learning_rate": rate} for rate in (3e-6, 1e-5, 3e-5, 1e-4)),
        Likelihood,
    ),
    "RandOpt": Method(
        {"algorithm": "randopt", "population": 64, "prompts": 16},
        tuple(
            {"sigma": sigma, "randopt.best": best}
            for sigma in (0.01, 0.03)
            for best in (4, 16)
        ),
    ),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One run."""

    model: str
    method: str
    changes: Mapping[str, Any] = dataclasses.field(hash=False)
    seed: int
    seconds: float

    @property
    def path(self) -> Path:
        kind = "search" if self.seed == SEARCH_SEED else self.seed
        values = [f"{name}={value:g}" for name, value in self.changes.items()]
        name = ".".join([self.model, self.method, str(kind), *values])
        return report.RESULTS / f"{name}.json"


def learn(case: Case) -> dict[str, Any]:
    """A run's figures; of a process of its own, or else its memory is another's."""
    method = METHODS[case.method]
    changes = {**method.settings, **case.changes}
    config = start.settings(case.model, changes, method.task, case.seed)
    judge = training.prepare(start.settings(case.model, {}, seed=case.seed)).task
    experiment = training.prepare(config)
    task, algorithm = experiment.task, experiment.algorithm
    state = training.initial_state(experiment)

    def look() -> float:
        if algorithm.validate is not None:
            return algorithm.validate(state, state.key)["solved"]
        return start.solved(judge, state.params)

    curve, tokens, seconds, steps = [], 0.0, 0.0, 0
    while True:
        if seconds >= min(len(curve) * LOOK, case.seconds):
            curve.append(
                {"seconds": seconds, "steps": steps, "tokens": tokens, "solved": look()}
            )
            if seconds >= case.seconds:
                break
        began = time.process_time()
        data = task.batch(state.task, steps, key_for(state.key, Purpose.BATCH, steps))
        state, figures = algorithm.step(state, data)
        tokens += float(figures["samples"])
        jax.block_until_ready(state)
        if steps:  # the first one compiles
            seconds += time.process_time() - began
        steps += 1
    return {
        "model": case.model,
        "method": case.method,
        "seed": case.seed,
        "settings": changes,
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "peak_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "solved": curve[-1]["solved"],
        "versions": runs.versions(),
        "curve": curve,
    }


class Lanes:
    """Cores, each of which runs one case at a time."""

    def __init__(self, count: int):
        self.cores: queue.SimpleQueue[int] = queue.SimpleQueue()
        for core in sorted(os.sched_getaffinity(0))[-count:]:
            self.cores.put(core)
        self.pool = concurrent.futures.ThreadPoolExecutor(count)

    def work(self, cases: list[Case]) -> None:
        """Runs those that have not been run before."""
        list(self.pool.map(self._run, cases))

    def _run(self, case: Case) -> None:
        if case.path.exists():
            return
        core = self.cores.get()
        try:
            asked = json.dumps(dataclasses.asdict(case))
            command = [sys.executable, "-m", "benchmarks.reasoning", "one", asked]
            bound = lambda: os.sched_setaffinity(0, {core})
            subprocess.run(command, check=True, preexec_fn=bound)
        finally:
            self.cores.put(core)
        found = json.loads(case.path.read_text())
        steps = found["curve"][-1]["steps"]
        print(
            f"{case.path.stem}: {found['solved']:.3f} after {steps} steps", flush=True
        )


def searched(model: str, name: str) -> list[Case]:
    """The short runs that choose a method's settings."""
    every = METHODS[name].search
    return [Case(model, name, changes, SEARCH_SEED, SEARCH) for changes in every]


def chosen(model: str, name: str) -> Mapping[str, Any]:
    """The settings of the best of them; of equals, those that stand first."""
    found = {x: json.loads(x.path.read_text()) for x in searched(model, name)}
    return max(found, key=lambda x: found[x]["solved"]).changes


def run(lanes: Lanes) -> None:
    report.RESULTS.mkdir(parents=True, exist_ok=True)
    for model in start.SIZES:
        start.fine_tuned(model)
        lanes.work([case for name in METHODS for case in searched(model, name)])
        best = {name: chosen(model, name) for name in METHODS}
        lanes.work([
            Case(model, name, changes, seed, LONG)
            for seed in SEEDS  # all methods before the next seed
            for name, changes in best.items()
        ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["run", "one", "table"])
    parser.add_argument("case", nargs="?", help="what `run` hands to its processes")
    parser.add_argument("--lanes", type=int, default=1, help="cores, a run on each")
    arguments = parser.parse_args()
    if arguments.command == "one":
        case = Case(**json.loads(arguments.case))
        found = learn(case)
        case.path.write_text(json.dumps(found) + "\n")
        return
    if arguments.command == "run":
        run(Lanes(arguments.lanes))
    report.table()
    report.figure()


if __name__ == "__main__":
    main()
