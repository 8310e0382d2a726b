"""What the commands of the command line do, given a way to say things."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from eggroll import runs, training
from eggroll.cli.distributed import told
from eggroll.config import load
from eggroll.errors import UserError
from eggroll.runs import Checkpoints, Outline, Restored, Run, animation, curves, metrics
from eggroll.sweep import search
from eggroll.training import (
    Experiment,
    Purpose,
    Stop,
    instantiate,
    key_for,
    processes,
    rewinding,
    update_choice,
)
from eggroll.training.budget import is_reached


Say = Callable[[str], None]
Overrides = Sequence[tuple[str, str]]
T = TypeVar("T")


def train(config: str, overrides: Overrides, say: Say) -> int:
    """Starts a run; nothing is written before all is checked."""
    loaded = load(config, overrides, name=Path(config).stem)
    loaded = update_choice.chosen(loaded, say if processes.is_first() else _unsaid)
    experiment = training.prepare(loaded)
    experiment.task.ready()
    path = processes.by_first(lambda: str(runs.create(loaded).path))
    return _train(experiment, Run(Path(path), loaded), say)


def resume(directory: str, overrides: Overrides, trust: bool, say: Say) -> int:
    """Goes on with a run, perhaps with another budget."""
    run = runs.load(directory, trust=trust)
    run = runs.changed(run, overrides) if overrides else run
    experiment = training.prepare(run.config)
    experiment.task.ready()
    return _train(experiment, run, say)


class Saved(NamedTuple):
    """Which checkpoint is looked at.

    Attributes:
        directory: Of the run.
        step: None for the newest.
        trust: Whether the run may name code of others.
    """

    directory: str
    step: int | None = None
    trust: bool = False


def evaluate(saved: Saved, seed: int, say: Say) -> int:
    """Validates a run's parameters on seeds that no validation of its training used."""
    run, experiment, restored = restore(saved, say)
    state = restored.state
    key = key_for(state.key, Purpose.EVALUATE, seed)
    say(f"{run.path} at step {restored.step}")
    for name, value in training.validated(experiment, state, key).items():
        say(f"  {name} {value:.6g}")
    return 0


class Sample(NamedTuple):
    """What text is wanted of a language model."""

    prompt: bytes
    length: int
    temperature: float
    seed: int


def sample(saved: Saved, wanted: Sample, say: Say) -> int:
    """Continues a text with the model of a run whose task has a method `sample`."""
    run, experiment, restored = restore(saved, say)
    make = getattr(experiment.task, "sample", None)
    if make is None:
        task = type(experiment.task).__name__
        raise UserError(f"{run.path}: the task {task} has no texts to sample")
    state = restored.state
    key = key_for(state.key, Purpose.EVALUATE, wanted.seed)
    prompt, length, temperature, _ = wanted
    made = make(state.params, prompt, length, key, temperature)
    say((prompt + b"".join(made)).decode(errors="replace"))
    return 0


class Film(NamedTuple):
    """What is wanted of an episode.

    Attributes:
        path: Of the GIF or PNG; None for `episode.gif` of the run.
        steps: How many at most.
        seed: Of the episode.
    """

    path: Path | None
    steps: int | None
    seed: int


def render(saved: Saved, wanted: Film, say: Say) -> int:
    """Films an episode of a run whose task has a method `render`."""
    path = wanted.path or Path(saved.directory) / "episode.gif"
    animation.check_path(path)
    if wanted.steps is not None and wanted.steps < 1:
        raise UserError(f"--steps: expected at least 1, got {wanted.steps}")
    run, experiment, restored = restore(saved, say)
    make = getattr(experiment.task, "render", None)
    if make is None:
        task = type(experiment.task).__name__
        raise UserError(f"{run.path}: the task {task} has nothing to draw")
    state = restored.state
    key = key_for(state.key, Purpose.EVALUATE, wanted.seed)
    frames = make(state.params, state.task, key, wanted.steps)
    animation.write(frames, path)
    say(f"{frames[-1].caption} at the end: {path}")
    return 0


def restore(saved: Saved, say: Say) -> tuple[Run, Experiment, Restored]:
    """A run and the state that one of its checkpoints holds, the newest by default.

    Of a step without one, the state that the run's log leads to.
    """
    run, step = runs.load(saved.directory, trust=saved.trust), saved.step
    experiment = training.prepare(run.config)
    checkpoints = Checkpoints(run.checkpoints)
    if step is not None and step not in checkpoints.steps() and run.replay.is_dir():
        state = rewinding.rewound(run, experiment, step).found.state
        return run, experiment, Restored(step, state, {}, {})
    facts = checkpoints.facts(step)
    edits = runs.edited(run, facts["config"]) if facts else {}
    for name, (before, now) in edits.items():
        if not runs.may_change(name):
            say(
                f"{name} was {before!r:.60} when the run was saved, and is "
                f"{now!r:.60} in its config.yaml, which holds here"
            )
    restored = checkpoints.restore(training.initial_state(experiment), step)
    for number, reason in restored.damaged.items():
        say(f"checkpoint {number} is damaged and passed over: {reason}")
    return run, experiment, restored


def plot(directories: Sequence[str], say: Say) -> int:
    """Draws the curve of each run anew."""
    for directory in directories:
        run = runs.outline(directory)
        _tell_troubles(run, say)
        say(str(curves.curve(run, run)))
    return 0


def compare(directories: Sequence[str], output: Path, say: Say) -> int:
    """Draws runs against each other, and tells where each got to."""
    found = [runs.outline(directory) for directory in directories]
    for run in found:
        _tell_troubles(run, say)
    picture = curves.comparison(found, found, output)
    width = max(len(str(run.path)) for run in found)
    say(
        f"{'run':<{width}}  algorithm  {'step':>8} {'seconds':>9} {'samples':>11}  last"
    )
    for run in found:
        rows = metrics.read(run.metrics)
        headline = curves.headline_of(rows)
        last = [row for row in rows if headline in row][-1]
        say(
            f"{run.path!s:<{width}}  {run.algorithm:<9}  {last['step']:>8} "
            f"{last.get('seconds', math.nan):>9.1f} "
            f"{last.get('samples', math.nan):>11.4g}  "
            f"{headline.removeprefix(curves.PREFIX)} {last[headline]:.6g}"
        )
    say(str(picture))
    return 0


def _tell_troubles(run: Outline, say: Say) -> None:
    for trouble in metrics.examine(run.metrics)[1]:
        say(trouble)


def sweep(config: str, overrides: Overrides, trials: int, seeds: int, say: Say) -> int:
    """Searches the space that a config declares, or goes on with that."""
    found = search.sweep(config, overrides, trials=trials, seeds=seeds, report=say)
    if found.signal is not None:
        say(f"all so far is in {found.path}; the same command goes on with it")
        return 128 + found.signal
    say((found.path / "table.md").read_text(encoding="utf-8").rstrip())
    say(f"{found.path}: sweep.json, table.md, sweep.png, and each run")
    return 0 if found.record.ranked() else 1


def check_reward(config: str, overrides: Overrides, say: Say) -> int:
    """Attacks the reward of a task that has a method `check_reward`; 1 if it gives in.

    The method is `(config, say) -> troubles`, the last of them in words.
    """
    loaded = load(config, overrides, name=Path(config).stem)
    task = instantiate.task(loaded)
    check = getattr(task, "check_reward", None)
    if check is None:
        raise UserError(f"{config}: the task {type(task).__name__} has no reward")
    troubles = check(loaded, say)
    for trouble in troubles:
        say(f"not as it should be: {trouble}")
    return 1 if troubles else 0


def _train(experiment: Experiment, run: Run, say: Say) -> int:
    told(str(run.path))
    say = say if processes.is_first() else _unsaid
    outcome = training.train(experiment, run, report=say, beat=lambda: told("step"))
    if processes.is_first():
        curves.curve(run, experiment.task)
    progress, validation = outcome.progress, outcome.validation
    if outcome.stop is Stop.INTERRUPT:
        assert outcome.signal is not None
        step = int(outcome.state.step)
        say(f"step {step} is saved; go on with: eggroll train --resume {run.path}")
        return 128 + outcome.signal
    name, value = next(iter(validation.items()))
    say(
        f"{name} {value:.6g}: {outcome.stop.value}, step {int(outcome.state.step)}, "
        f"{progress.seconds:.1f} s ({progress.training_seconds:.1f} s in steps, once "
        "compiled)"
    )
    say(f"curve: {run.curve}")
    target = run.config.budget.target
    if target is None or is_reached(validation, target, experiment.task.maximise):
        return 0
    say(f"the target of {target:g} is missed")
    return 1


def _unsaid(_: str) -> None:
    """What the first of several processes says."""
