"""What a replay log costs, and how much faster than training it makes steps again.

    python -m benchmarks.replay CONFIG [--steps 60] [--json FILE] [--SETTING VALUE ...]

Each step of a run is made in two programs, as it is, and in a single one, as it was
before there was a log; logged, which is to fetch its numbers and to append them; and
made again from them. Printed are medians (of the two kinds of steps the least, too),
and the bytes of a record. All of it runs in one process, turn by turn, so that all
share a machine's mood; compilation does not count.
"""

import argparse
import dataclasses
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from eggroll import training
from eggroll.config import load
from eggroll.runs.replaylog import Record, Writer, segments
from eggroll.training import Progress, Purpose, State, key_for, replay
from eggroll.training.verdict import all_finite


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds until what a function gives is there, and that."""
    start = time.perf_counter()
    found = jax.block_until_ready(function())
    return 1e3 * (time.perf_counter() - start), found


def measured(config: str, overrides: list[tuple[str, str]], steps: int) -> dict:
    """The figures of one config."""
    experiment = training.prepare(load(config, overrides, name="replay"))
    _, task, algorithm = experiment
    pair = algorithm.parts
    if pair is None:
        raise SystemExit("this algorithm has no replay log")
    state = training.initial_state(experiment)
    single = jax.jit(pair.trial) if task.score is None else pair.step
    used = dataclasses.asdict(Progress())
    times: dict[str, list[float]] = {}

    def time_it(name: str, function: Callable[[], Any]) -> Any:
        took, found = timed(function)
        times.setdefault(name, []).append(took)
        return found

    def step(function: Callable, state: State, data: Any) -> tuple[Any, ...]:
        new, figures, *numbers = function(state, data)
        jax.device_get((figures, all_finite(new.params)))
        return new, *numbers

    with tempfile.TemporaryDirectory() as folder:
        writer = Writer(Path(folder), 0, {"config": {}})

        def log(number: int, numbers: dict[str, Any]) -> dict[str, Any]:
            numbers = jax.device_get(numbers)
            writer.append(Record(number + 1, used, numbers))
            return numbers

        for number in range(steps + 2):  # two warm up
            key = key_for(state.key, Purpose.BATCH, number)
            data, found = task.batch(state.task, number, key), {}
            kinds = {
                "plain": functools.partial(replay.stepped, algorithm),
                "single": single,
            }
            for name in list(kinds)[:: 1 if number % 2 else -1]:
                make = functools.partial(step, kinds[name], state, data)
                found[name] = time_it(name, make)
            new, numbers = found["plain"]
            numbers = time_it("log", functools.partial(log, number, numbers))
            again = time_it(
                "again", functools.partial(replay.again, pair, state, numbers)
            )
            same = jax.tree.map(
                lambda a, b: bool((a == b).all()), new.params, again.params
            )
            assert all(jax.tree.leaves(same)), "made again, the step is another"
            state = new
        (segment,) = segments(Path(folder))
    middle = {name: statistics.median(all_[2:]) for name, all_ in times.items()}
    least = {f"{name}_least_ms": min(times[name][2:]) for name in ("plain", "single")}
    return {
        "config": config,
        "overrides": dict(overrides),
        "population": experiment.config.strategy.population,
        "bytes": segment.size,
        **{f"{name}_ms": one for name, one in middle.items()},
        **least,
        "log_share": middle["log"] / middle["plain"],
        "speed": middle["plain"] / middle["again"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="what a replay log costs")
    parser.add_argument("config")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", type=Path)
    options, rest = parser.parse_known_args()
    names = [word.removeprefix("--") for word in rest[::2]]
    found = measured(
        options.config, list(zip(names, rest[1::2], strict=True)), options.steps
    )
    for name, value in found.items():
        print(
            f"{name:12} {value:.4g}"
            if isinstance(value, float)
            else f"{name:12} {value}"
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
