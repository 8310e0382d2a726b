"""What `eggroll rewind` and `eggroll replay` do: states made again from a log."""

import time
from pathlib import Path
from typing import NamedTuple

from eggroll import runs, training
from eggroll.cli.commands import Overrides, Say
from eggroll.errors import UserError
from eggroll.training import replay as replaying, rewinding


class Target(NamedTuple):
    """What is to be made again, and where.

    Attributes:
        step: None for the last one.
        path: Of the new run's directory; None for one beside what it is made from.
        trust: Whether what is read may name code of others.
    """

    step: int | None
    path: Path | None
    trust: bool


def rewind(directory: str, target: Target, say: Say) -> int:
    """Makes a run of what another was after a step; that one stays as it is."""
    run, step = runs.load(directory, trust=target.trust), target.step
    assert step is not None
    path = _free(target.path or run.path.with_name(f"{run.path.name}-step-{step}"))
    experiment = training.prepare(run.config)
    started = time.perf_counter()
    found, base, is_anew = rewinding.rewound(run, experiment, step)
    took = time.perf_counter() - started
    rewinding.written(run, found, path)
    source = f"the checkpoint of step {base}" if base else "the start"
    how = "its checkpoint"
    if base < step:
        how = f"{source} and {step - base} steps of the log, nothing evaluated"
    if is_anew:
        how = f"{source} and {step - base} steps that were evaluated again, as members "
        how += "keep from step to step what no log holds"
    say(f"{path}: step {step} of {run.path}, from {how} ({took:.1f} s)")
    say(f"go on with: eggroll train --resume {path}")
    return 0


def replay(log: str, overrides: Overrides, target: Target, say: Say) -> int:
    """Makes the run again that a log tells of, from where it began."""
    run, experiment = rewinding.shared(Path(log), overrides, trust=target.trust)
    name = run.config.name or "run"
    path = _free(target.path or Path(run.config.output) / f"{name}-replayed")
    experiment.task.ready()
    base, started = rewinding.started(experiment), time.perf_counter()
    found = replaying.rebuilt(experiment, run.replay, base, target.step)
    took = time.perf_counter() - started
    parts = experiment.algorithm.parts
    is_afresh = parts is not None and parts.carries()
    rewinding.written(run, found, path, is_afresh=is_afresh)
    say(f"{path}: step {found.step}, nothing evaluated ({took:.1f} s)")
    say(f"see what it is worth with: eggroll eval {path}")
    return 0


def _free(path: Path) -> Path:
    if path.exists():
        raise UserError(f"{path} exists already: choose another with --output")
    return path
