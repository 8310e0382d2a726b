"""What a run keeps as it goes: checkpoints, written beside the training, and the log.

Arrays of JAX do not change, so that a thread writes the state of a step while the loop
makes the next ones from it: a save costs the loop no more than to hold on to a state
(or a copy on the device, where steps write over it), unless the one before it is still
being written, for which it waits. Of several
processes, whose threads might not agree on an order, each writes as the loop comes by.
"""

import concurrent.futures
import math
import time
from collections.abc import Callable
from typing import Any

import jax

from eggroll.runs import replaylog, seals
from eggroll.runs.checkpoint import Checkpoints
from eggroll.runs.directory import Run
from eggroll.runs.replaylog import Record
from eggroll.training import donation, processes
from eggroll.training.experiment import Experiment, writes_over
from eggroll.training.state import State


PREFIX = "validation/"  # of figures, the headline one first
EVERY = 100  # steps between checkpoints where nothing is asked for,
PATIENCE = 50  # and at least so many times as long as one takes to be written


class Saving:
    """The checkpoints and the replay log of one sitting."""

    def __init__(self, run: Run, experiment: Experiment):
        """Opens what there is, and writes nothing.

        Args:
            run: Whose they are.
            experiment: Made from its settings.
        """
        self.config, task, algorithm = experiment
        has_log = self.config.replay_log != "none"
        self.is_logging = has_log and algorithm.parts is not None
        self.checkpoints = Checkpoints(
            run.checkpoints, keep=self.config.keep_checkpoints
        )
        self.scores: dict[int, float] = {}  # of the steps that were validated
        self._is_written_over = writes_over(experiment)
        self._sign = 1 if task.maximise else -1
        self._directory = run.replay
        self._log: replaylog.Writer | None = None
        self._held: Record | None = None
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "checkpoints")
        self._pending: concurrent.futures.Future[None] | None = None
        self._saved_at = time.monotonic()
        self._took = 0.0  # seconds to write the last one

    def begin(self, step: int, facts: dict[str, Any]) -> None:
        """Begins a log of the steps after this one, in place of what was there.

        Args:
            step: Of the state that the next record follows.
            facts: To be noted with it.
        """
        if processes.is_first():
            replaylog.forget_after(self._directory, step)
            seals.forget_after(self._directory, step)
            if self.is_logging:
                self._log = replaylog.Writer(self._directory, step, facts)

    def recall(self, rows: list[dict[str, Any]]) -> None:
        """Takes the scores of earlier sittings from the figures of a run."""
        for row in rows:
            scores = [one for name, one in row.items() if name.startswith(PREFIX)]
            if scores:
                self.scores[row["step"]] = scores[0]

    def hold(self, record: Record) -> None:
        """Keeps the record of a step until it is known whether the run ends with it."""
        self._held = record

    def record(self, *, ends: bool = False) -> None:
        """Writes the record that is held, if one is."""
        record, self._held = self._held, None
        if record is not None and self._log is not None:
            self._log.append(record._replace(ends=ends))

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is: by its number, or by this process's clock."""
        every, seconds = self.config.checkpoint_every, self.config.checkpoint_seconds
        waited = time.monotonic() - self._saved_at
        if seconds is not None and waited >= seconds:
            return True
        if every is None:
            return step % EVERY == 0 and waited >= PATIENCE * self._took
        return step % every == 0

    def save(
        self,
        step: int,
        state: State,
        facts: dict[str, Any],
        settle: Callable[[], None],
        *,
        wait: bool = False,
    ) -> None:
        """Has a checkpoint written, once the one before it is.

        Args:
            step: Its number.
            state: Of which, where the next step may write over it, a copy is written.
            facts: Plain data to keep beside it.
            settle: Called first, by whoever writes: figures become durable.
            wait: Return when it is written.

        Raises:
            UserError: This one, or the one before, cannot be written.
        """
        self.wait()
        self.record()
        log, self._saved_at = self._log, time.monotonic()
        stays = self._best({*self.checkpoints.steps(), step})

        finish = log.cut() if log is not None else lambda: None

        def write() -> None:
            began = time.monotonic()
            settle()
            finish()
            digests = self.checkpoints.save(step, state, facts, spare=stays)
            if log is not None:
                seals.seal(self._directory, step, digests)
                if self.config.replay_log == "recent":
                    oldest = min(self.checkpoints.steps())
                    replaylog.forget_before(self._directory, oldest)
            self._took = time.monotonic() - began

        if jax.process_count() > 1:
            write()
            return
        if not wait and self._is_written_over:
            state = donation.apart(state)
        self._pending = self._pool.submit(write)
        if wait:
            self.wait()

    def check(self) -> None:
        """Raises what went wrong with the writing, if anything has by now."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Returns once all is written, or raises what went wrong."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Ends the writing, once what is being written is."""
        self._pool.shutdown()
        if self._log is not None:
            self._log.cut()()

    def _best(self, steps: set[int]) -> int | None:
        """The step with the best score among those, the latest of equals."""
        known = [
            (self._sign * self.scores[step], step)
            for step in steps
            if math.isfinite(self.scores.get(step, math.nan))
        ]
        return max(known)[1] if known and self.config.keep_best else None
