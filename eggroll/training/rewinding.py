"""Any step of a run as a run of its own, made again from a checkpoint and the log."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from eggroll.config import loading
from eggroll.config.schema import Config, plain
from eggroll.errors import UserError
from eggroll.runs import origin, replaylog
from eggroll.runs.checkpoint import Checkpoints
from eggroll.runs.directory import Run, check_edits, versions
from eggroll.runs.forking import forking
from eggroll.training import replay
from eggroll.training.budget import Progress
from eggroll.training.experiment import Experiment, initial_state, prepare
from eggroll.training.replay import Rebuilt
from eggroll.training.sittings import in_force


class Rewound(NamedTuple):
    """A state that was made again.

    Attributes:
        found: It, and what is known of it.
        base: The step of the checkpoint that it was made from; 0: of the start.
        is_anew: Whether the steps between had to be evaluated.
    """

    found: Rebuilt
    base: int
    is_anew: bool = False


def rewound(run: Run, experiment: Experiment, step: int) -> Rewound:
    """The state that a run had after a step.

    Args:
        run: Of which a checkpoint, or the start, and the log are read.
        experiment: Made from its settings.
        step: Which.

    Raises:
        UserError: Neither checkpoints nor the log lead there.
    """
    base = _before(run, experiment, step)
    if base.step == step:
        return Rewound(base, step)
    parts = experiment.algorithm.parts
    try:
        found = replay.rebuilt(experiment, run.replay, base, step, evaluating=True)
    except UserError as error:
        steps = ", ".join(map(str, Checkpoints(run.checkpoints).steps())) or "none"
        raise UserError(
            f"{error}; there is no checkpoint of step {step} either, only of {steps}"
        ) from None
    return Rewound(found, base.step, parts is not None and parts.carries())


def written(run: Run, found: Rebuilt, path: Path, *, is_afresh: bool = False) -> None:
    """Makes a run of a state, with the figures and the log that led to it.

    Args:
        run: Whose past it is.
        found: The state.
        path: Of the new run's directory.
        is_afresh: Whether what members keep from step to step is as at the start.

    Raises:
        UserError: There is something of that name.
    """
    facts = {
        "progress": found.progress.facts(),
        "config": plain(found.config),
        "versions": versions(),
        "is_afresh": is_afresh,
    }
    with forking(run, found.config, path, found.step) as other:
        Checkpoints(other.checkpoints).save(found.step, found.state, facts)


def shared(
    log: Path, overrides: Iterable[tuple[str, str]], *, trust: bool
) -> tuple[Run, Experiment]:
    """The run that a log from elsewhere tells of, which need not be there itself.

    Args:
        log: Its directory.
        overrides: Of its settings, as on the command line, such as where the model is
            here that it starts from.
        trust: Whether it may name code of others.

    Raises:
        UserError: It is no log, or none from the start on, or names code.
    """
    found = replaylog.segments(log)
    if not found or found[0].start != 0:
        raise UserError(
            f"{log}: expected the log of a run from its first step on, the directory "
            f"`replay` of a run: {'it begins later' if found else 'there is none'}"
        )
    settings = found[0].facts["config"]
    if not trust:
        origin.check(log, settings)
    for name, value in overrides:
        loading.override(settings, name.replace("-", "_"), value, is_text=True)
    config = loading.resolve(settings)
    return _Shared(log, config), prepare(config)


def started(experiment: Experiment) -> Rebuilt:
    """Where a run begins."""
    return Rebuilt(initial_state(experiment), 0, Progress(), experiment.config)


def _before(run: Run, experiment: Experiment, step: int) -> Rebuilt:
    """The newest readable checkpoint that is not of a later step, or the start."""
    checkpoints, start = Checkpoints(run.checkpoints), started(experiment)
    try:
        restored = checkpoints.restore(start.state, until=step)
    except UserError:
        return start
    saved = restored.facts["config"]
    check_edits(run, saved)
    config: Config = in_force(run.config, saved, run.checkpoints)
    used = Progress.read(restored.facts["progress"])
    return Rebuilt(restored.state, restored.step, used, config)


class _Shared(Run):
    """A log alone, as if there were a run around it."""

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def replay(self) -> Path:
        return self.path
