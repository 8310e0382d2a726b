"""Random search: trials of settings drawn from a space, each with several seeds.

A sweep is a directory of ordinary runs, with `sweep.json`, `table.md` and `sweep.png`
beside them. The same command goes on where it was stopped: finished runs are passed
over, and one that is half done is resumed.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from signal import Signals
from typing import Any, NamedTuple

import jax

from eggroll import runs, training
from eggroll.config import Config, flat, load, load_sweep, search_space
from eggroll.errors import UserError
from eggroll.runs import Checkpoints, Run, atomic, curves, metrics
from eggroll.sweep import plot
from eggroll.sweep.record import Record, Result, Trial, in_words, table
from eggroll.training import Experiment, Progress, Stop
from eggroll.training.budget import exhausted


Overrides = Sequence[tuple[str, str]]
Report = Callable[[str], None]
# Settings that may change without making it another sweep.
CHANGEABLE = ("mesh", "name", "output")  # and what is in them


class Sweep(NamedTuple):
    """A sweep's directory and what has come of it so far.

    Attributes:
        path: The directory.
        record: The trials and their results.
        signal: What interrupted it, if anything did.
    """

    path: Path
    record: Record
    signal: Signals | None


def sweep(
    config: str | Path,
    overrides: Overrides = (),
    *,
    trials: int,
    seeds: int,
    report: Report = lambda _: None,
) -> Sweep:
    """Makes, or goes on with, the sweep that a config describes.

    Args:
        config: A YAML file whose section `sweep` says what to search.
        overrides: As on the command line; they hold for all trials.
        trials: How many draws from the space.
        seeds: How many runs of each: of the config's `seed` and those that follow it.
        report: Told in words what happens.

    Raises:
        UserError: There is nothing to search, the settings cannot be run at all, or
            the directory holds another sweep, or another process is at it. (A trial
            that fails is but recorded.)
    """
    base, space = load_sweep(config, overrides, name=Path(config).stem)
    if not space:
        raise UserError(
            f"{config}: there is nothing to search: give it a section `sweep`, such as "
            "{sigma: [0.05, 0.2], learning_rate: {low: 0.001, high: 0.1, kind: log}}"
        )
    if trials < 1 or seeds < 1:
        raise UserError(f"expected trials and seeds, got {trials} and {seeds}")
    maximise = training.prepare(base).task.maximise
    path = _made(Path(base.output) / f"{base.name}-sweep")
    with runs.sitting(path):
        record = _open(path, _asked(base, search_space.plain(space)), maximise)
        for number in range(trials):
            drawn = search_space.draw(space, base.seed, number)
            record.trials.setdefault(number, Trial(number, drawn))
        wanted = [record.trials[number] for number in range(trials)]
        # All at once, so that the file may be edited while the sweep runs.
        configs = [_settings(config, overrides, trial) for trial in wanted]
        found = list(zip(wanted, configs, strict=True))
        signal = _search(
            path, record, found, range(base.seed, base.seed + seeds), report
        )
        return Sweep(path, record, signal)


def _search(
    path: Path,
    record: Record,
    trials: Sequence[tuple[Trial, Config | UserError]],
    seeds: range,
    report: Report,
) -> Signals | None:
    """Finishes the trials one after the other; returns the signal that interrupted."""
    for trial, found in trials:
        for seed in seeds:
            name = f"trial-{trial.number:03}-seed-{seed}"
            if isinstance(found, UserError):
                trial.failure = str(found)
                break
            own = dataclasses.replace(found, seed=seed, output=str(path), name=name)
            signal = _attempt(trial, own, report)
            record.write(path / "sweep.json")
            if signal is not None:
                return signal
        show(path, record)
        report(f"trial {trial.number}: {in_words(trial)}")
    return None


def show(path: Path, record: Record) -> None:
    """Writes what is known so far: `sweep.json`, the table and the picture."""
    record.write(path / "sweep.json")
    atomic.write_text(path / "table.md", table(record))
    if record.ranked():
        plot.picture(record, path / "sweep.png")


def _asked(base: Config, space: dict[str, Any]) -> dict[str, Any]:
    """What makes it this sweep, by dotted name and as JSON gives it back."""
    asked = {f"sweep.{name}": one for name, one in space.items()}
    for name, value in flat(base).items():
        if name.partition(".")[0] not in CHANGEABLE:
            asked[name] = value
    return json.loads(json.dumps(asked))


def _made(path: Path) -> Path:
    """The directory, which is made if need be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        runs.ignore_in_git(path)
    except OSError as error:
        raise UserError(
            f"output: {path} cannot be written ({error.strerror}): choose another "
            "directory with --output"
        ) from error
    return path


def _open(path: Path, asked: dict[str, Any], maximise: bool) -> Record:
    """The record of the sweep in a directory."""
    if not (path / "sweep.json").exists():
        return Record(maximise, asked)
    record = Record.read(path / "sweep.json")
    for name in sorted(asked.keys() | record.asked.keys()):
        before, now = record.asked.get(name), asked.get(name)
        if before != now:
            raise UserError(
                f"{path} holds another sweep: {name} was {before} and is {now} now; "
                "choose another directory with --name, or remove this one"
            )
    return record


def _settings(
    config: str | Path, overrides: Overrides, trial: Trial
) -> Config | UserError:
    """The settings of a trial's runs, or why there can be none."""
    # As if typed, in the order of the names: `optimizer` before what is below it.
    drawn = [(name, json.dumps(one)) for name, one in sorted(trial.settings.items())]
    try:
        return load(config, [*overrides, *drawn])
    except UserError as error:
        return error


def _attempt(trial: Trial, config: Config, report: Report) -> Signals | None:
    """Finishes one run of a trial, unless that is done, or in vain."""
    path = Path(config.output) / str(config.name)
    # Who removes the directory of a failed run wants it tried again.
    if config.seed in trial.results or (trial.failure and path.exists()):
        return None
    trial.failure = None
    try:
        experiment = training.prepare(config)
        is_new = not (path / "config.yaml").exists()
        run = runs.create(config) if is_new else Run(path, config)
        result, signal = _finished(run), None
        if result is None:
            result, signal = _train(experiment, run, report)
    except (UserError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error.__cause__, OSError):
            raise  # a full disk is no fault of the settings
        trial.failure = f"seed {config.seed}: {error}"
        return None
    if result is not None and math.isfinite(result.value):
        trial.results[config.seed] = result
    elif result is not None:
        trial.failure = f"seed {config.seed}: {result.metric} is {result.value}"
    return signal


def _train(
    experiment: Experiment, run: Run, report: Report
) -> tuple[Result | None, Signals | None]:
    """Trains to the end or to an interruption; both may come at once."""

    def pass_on(text: str) -> None:
        if not text.startswith("step "):  # too many of them, over all runs
            report(f"{run.path.name}: {text}")

    outcome = training.train(experiment, run, report=pass_on)
    curves.curve(run, experiment.task)
    if outcome.stop is Stop.INTERRUPT:
        return None, outcome.signal
    name, value = next(iter(outcome.validation.items()))
    return Result(name, value, outcome.progress.seconds), outcome.signal


def _finished(run: Run) -> Result | None:
    """What a run came to that ended just before the sweep was killed."""
    rows = metrics.read(run.metrics)
    if not rows or rows[-1]["step"] not in Checkpoints(run.checkpoints).steps():
        return None
    last, facts = rows[-1], Checkpoints(run.checkpoints).facts(rows[-1]["step"])
    if facts is None or not any(name.startswith(curves.PREFIX) for name in last):
        return None
    headline, progress = curves.headline_of(rows), Progress.read(facts["progress"])
    if exhausted(run.config.budget, last["step"], progress) is None:
        return None
    metric = headline.removeprefix(curves.PREFIX)
    return Result(metric, last.get(headline, math.nan), progress.seconds)
