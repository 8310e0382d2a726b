"""A run made of the past of another, which stays as it is."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from eggroll.config import Config, plain
from eggroll.runs import atomic, metrics, origin, outlines, replaylog, seals
from eggroll.runs.directory import Run, write_settings


@contextlib.contextmanager
def forking(run: Run, config: Config, path: Path, step: int) -> Iterator[Run]:
    """Makes another run of what a run was after a step, but for its state.

    Args:
        run: Which stays as it is; of one that is none, what is missing is left out.
        config: The settings of the other.
        path: Of the other's directory.
        step: The last step of its log and its figures.

    Yields:
        The other, whose directory gets its name at the end of the block.

    Raises:
        UserError: There is something of that name.
    """
    with atomic.making(path) as new:
        other = Run(new, config)
        write_settings(new, config)
        origin.sign(new, plain(config))
        if (run.path / outlines.NAME).is_file():
            shutil.copy(run.path / outlines.NAME, new)
        if run.metrics.is_file():
            shutil.copy(run.metrics, other.metrics)
            metrics.forget_after(other.metrics, step)
        if run.replay.is_dir():
            shutil.copytree(run.replay, other.replay)
            replaylog.forget_after(other.replay, step)
            seals.forget_after(other.replay, step)
        yield other
