"""What it costs a run to lose nothing: checkpoints, figures, replay log, diagnostics.

    python -m benchmarks.upkeep [--turns 20] [--only NAME ...] [--json FILE]

Steps of a run as it is by default, beside those of one that keeps no more than
`metrics.jsonl`: no checkpoint between the first and the last, no replay log, no
diagnosis. The two live in one process and take turns of a second or two, so that
whatever else the machine does falls on both; compilation, the first turn, validations
and the last checkpoint are left out. Printed are the ratios of all turns, of seconds
and of processor time (in which the work of checkpoints beside the loop counts), with
their standard errors. The clock that says when a checkpoint is due stands still while
a run waits. The last case has almost no work to do: what its steps take is the host's
and the upkeep. How much of it is JAX's own, of starting a step's programs, tells a bare
loop of these and of nothing else.
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from eggroll import runs, training
from eggroll.config import Config, load
from eggroll.training import Purpose, key_for, saving


ROOT = Path(__file__).parents[1]
KINDS = "seconds", "processor time"
NEVER = "1000000000"
OFF = {"checkpoint_every": NEVER, "replay_log": "none", "diagnose_every": "0"}


class Case(NamedTuple):
    """A run.

    Attributes:
        config: under `configs`.
        turn: steps of one.
        changes: of its settings.
    """

    config: str
    turn: int
    changes: dict[str, str]


CASES = {
    "demo": Case("rl/cartpole.yaml", 20, {}),
    "EGG 2x64, 2,048 members": Case(
        "language/demo.yaml", 5, {"task.validation_lanes": "16"}
    ),
    "10 million parameters": Case(
        "supervised/regression.yaml",
        10,
        {
            "task.hidden": "[1024, 2048, 2048, 1664]",
            "task.validation_size": "16",
            "strategy.population": "16",
            "task.batch_size": "16",
        },
    ),
    "almost no work": Case(
        "supervised/regression.yaml",
        500,
        {
            "task.hidden": "[4]",
            "task.batch_size": "1",
            "task.validation_size": "1",
            "strategy.population": "2",
        },
    ),
}


Beat = Callable[[], None]
Loop = Callable[[Config, Beat], None]


class Cost(NamedTuple):
    """Of a step, in milliseconds: of the clock, and of all processors (`KINDS`)."""

    seconds: float
    processor: float


def config_of(case: Case, folder: str, turns: int, changes: dict[str, str]) -> Config:
    changes = {
        "budget.generations": str(case.turn * (1 + turns) + 1),
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


class Clock:
    """`time`, as far as `saving` knows it, which stands still while a run waits."""

    waited = 0.0  # seconds

    def monotonic(self) -> float:
        return time.monotonic() - self.waited


class Turns:
    """What each turn of a run costs; between two of them it waits for the others.

    Attributes:
        costs: A step's, a turn at a time, the first left out.
    """

    def __init__(self, steps: int, turns: int, place: int, everyone: threading.Barrier):
        self.costs: list[Cost] = []
        self.clock = Clock()
        self._steps, self._turns, self._step = steps, turns, 0
        self._place, self._everyone = place, everyone
        self._wait(place)

    def _wait(self, turns: int) -> None:
        began = time.monotonic()
        for _ in range(turns):
            self._everyone.wait()
        self.clock.waited += time.monotonic() - began

    def beat(self) -> None:
        """Counts a step."""
        self._step += 1
        if self._step % self._steps == 0:
            if self._step > self._steps:
                pairs = zip(now(), self._began, strict=True)
                self.costs.append(Cost(*((b - a) / self._steps for b, a in pairs)))
            is_last = len(self.costs) == self._turns
            self._wait(self._everyone.parties - is_last * self._place)
            self._began = now()


def run(config: Config, beat: Beat) -> None:
    """As a user has it."""
    training.train(training.prepare(config), runs.create(config), beat=beat)


def bare(config: Config, beat: Beat) -> None:
    """Starts the programs of as many steps, and waits for each step's fitness."""
    experiment = training.prepare(config)
    state = training.initial_state(experiment)
    task, parts = experiment.task, experiment.algorithm.parts
    if parts is None:
        raise SystemExit(
            "one program makes its whole step: there is nothing to compare"
        )
    for step in range(config.budget.generations or 0):
        data = task.batch(state.task, step, key_for(state.key, Purpose.BATCH, step))
        found = parts.evaluate(state, data)
        state, _ = parts.learn(state, found)
        jax.block_until_ready(found.fitness)
        beat()


def in_turns(
    case: Case, turns: int, *loops: tuple[Loop, dict[str, str]]
) -> list[list[Cost]]:
    """What loops cost that share a process but never a moment."""
    everyone, found, wrong = threading.Barrier(len(loops)), {}, []

    def live(place: int, loop: Loop, config: Config) -> None:
        try:
            mine = Turns(case.turn, turns, place, everyone)
            if place == 0:  # the only one with checkpoints
                saving.time = mine.clock  # pyrefly: ignore[bad-assignment]
            loop(config, mine.beat)
            found[place] = mine.costs
        except BaseException as error:
            wrong.append(error)
            everyone.abort()

    with tempfile.TemporaryDirectory() as folder:
        threads = [
            threading.Thread(
                target=live,
                args=(i, loop, config_of(case, folder, turns, changes)),
                daemon=True,
            )
            for i, (loop, changes) in enumerate(loops)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if wrong:
        raise wrong[0]
    return [found[place] for place in range(len(loops))]


def over(numerators: list[float], denominators: list[float]) -> tuple[float, float]:
    """The ratio of two sums over turns, and its standard error, by jackknife."""
    tops, bottoms = sum(numerators), sum(denominators)
    pairs = zip(numerators, denominators, strict=True)
    without = [(tops - top) / (bottoms - bottom) for top, bottom in pairs]
    turns = len(without)
    return tops / bottoms, (turns - 1) / turns**0.5 * statistics.stdev(without)


def measured(case: Case, turns: int) -> dict[str, Any]:
    """The figures of one case."""
    on, off = in_turns(case, turns, (run, {}), (run, OFF))
    [alone] = in_turns(case, turns, (bare, OFF))
    seconds = {"milliseconds a step": on, "without": off, "bare": alone}
    found: dict[str, Any] = {
        name: statistics.median(one.seconds for one in costs)
        for name, costs in seconds.items()
    }
    for kind, what in enumerate(KINDS):
        ratio, error = over([one[kind] for one in on], [one[kind] for one in off])
        found |= {f"ratio of {what}": ratio, f"error of {what}": error}
    return found | {"turns": {"on": on, "off": off}}


def in_words(figures: dict[str, Any]) -> str:
    ratios = []
    for kind in KINDS:
        ratio, error = figures[f"ratio of {kind}"], figures[f"error of {kind}"]
        ratios.append(f"{ratio:.3f} ± {error:.3f} of {kind}")
    return (
        f"{figures['milliseconds a step']:.2f} ms a step, "
        f"{figures['without']:.2f} without, {figures['bare']:.2f} bare; ratios "
        + ", ".join(ratios)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        found = {}
        for name in options.only:
            found[name] = one = measured(CASES[name], options.turns)
            print(f"{name}: {in_words(one)}", flush=True)
            if options.json:
                options.json.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
