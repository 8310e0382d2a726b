"""The training loop: one explicit state, saved so that nothing is lost.

Resuming gives bit for bit what the run would have given without the stop: the state
holds all that the next step needs, and each key is a function of base key and step.
"""

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Callable

import jax

from eggroll.config.schema import plain
from eggroll.errors import UserError
from eggroll.runs import metrics, outlines
from eggroll.runs.directory import Run, settle, versions
from eggroll.runs.lock import sitting
from eggroll.runs.replaylog import Record
from eggroll.training import donation, processes, replay, sittings
from eggroll.training.ahead import Steps
from eggroll.training.budget import Outcome, Progress, Stop, exhausted, is_reached
from eggroll.training.experiment import Experiment, own_state, validated
from eggroll.training.listener import Listener, Report
from eggroll.training.replay import Rebuilt
from eggroll.training.resuming import check_beginning, notices, resumed
from eggroll.training.saving import Saving
from eggroll.training.signals import Interrupt, interruptible
from eggroll.training.state import Purpose, key_for
from eggroll.training.verdict import Verdict, all_finite, of_fitness, of_parameters
from eggroll.training.watch import Watch


Beat = Callable[[], None]


def train(
    experiment: Experiment,
    run: Run,
    *,
    report: Report = lambda _: None,
    beat: Beat = lambda: None,
) -> Outcome:
    """Trains from the run's newest readable checkpoint, or else from the start.

    Args:
        experiment: Made from the run's settings.
        run: Where checkpoints and figures go.
        report: Told in words what happens; the run goes on if that fails.
        beat: Called after each step.

    Raises:
        UserError: Nothing is left to do, no fitness is finite, the disk is full, or
            another process is at it. What was saved before stays.
    """
    listener = Listener(report, run.path)
    is_first = processes.is_first()
    alone = sitting(run.path) if is_first else contextlib.nullcontext()
    with alone, interruptible(listener) as interrupt:
        if is_first:
            outlines.note(run.path, experiment.task)
        loop = _Loop(experiment, run, listener, beat)
        stop = loop.run(interrupt)
    took = time.perf_counter() - loop.started  # with the last checkpoint
    progress = dataclasses.replace(loop.progress, seconds=took)
    return Outcome(stop, loop.state, loop.validation, progress, interrupt.signal)


class _Loop:
    """The state of one sitting."""

    def __init__(self, experiment: Experiment, run: Run, report: Listener, beat: Beat):
        started = time.perf_counter()
        self.experiment = experiment
        self.config, self.task, self.algorithm = experiment
        self.report, self.beat = report, beat
        self.saving, self.watch = Saving(run, experiment), Watch(report)
        self.checkpoints, self.files = self.saving.checkpoints, run
        self.state = own_state(experiment)
        self.steps = Steps(experiment, self.state.params)
        self.step = 0
        self.progress = Progress()
        self.best = -math.inf  # raw fitness of a member, over all sittings
        self.validation: dict[str, float] = {}
        self.is_fresh = not self.checkpoints.steps()
        self.is_compiled = False
        self.is_told = True  # that the figures of the last step are written
        self.is_finite = True  # of the parameters, after the last step
        self.has_warned = False
        if self.is_fresh:
            self._begin()
        else:
            self._resume()
        self.started = started - self.progress.seconds

    def run(self, interrupt: Interrupt) -> Stop:
        lost, total = self.report.lost, self.config.budget.generations
        if processes.is_first():
            recorder = metrics.recorder(self.files.path, self.config, lost)
        else:
            recorder = metrics.Recorder(metrics.Unwritten(), [], lost)
        with recorder, self.report.bar(total, self.step), self.watch:
            self.settle = recorder.settle  # here, as ever before a checkpoint
            try:
                self.saving.begin(self.step, sittings.facts(self.experiment))
                return self._sit(recorder, interrupt)
            except Exception:
                if jax.process_count() == 1:  # else the others would have to save, too
                    self._rescue()
                raise
            finally:
                self.saving.close()

    def _sit(self, recorder: metrics.Recorder, interrupt: Interrupt) -> Stop:
        config, stop, asked = self.config, None, None
        if self.is_fresh:
            recorder.write(0, self._validate())
            self._save(wait=True)  # so that a disk that cannot be written stops us here
        while stop is None and asked is None:
            row = self._advance()
            if not self.is_finite:
                recorder.write(self.step, row)
                raise UserError(self._unfit())
            self._warn_of(verdict := of_fitness(row, self.step, self.experiment))
            stop, asked, is_due = self._agreed(self._exhausted(), interrupt.signal)
            if stop or self.step % config.evaluate_every == 0:
                row |= self._validate()
                stop = Stop.TARGET if self._has_reached_target() else stop
            try:
                recorder.write(self.step, row)
            except UserError:  # which is no reason to lose the step, too
                self.is_told = True
                raise
            self.is_told = True
            is_fatal = verdict is not None and verdict.is_fatal
            self.saving.record(ends=stop is not None or is_fatal)
            self.report.advance()
            self.beat()
            if verdict is not None and is_fatal:
                self._save_once()
                raise UserError(f"{verdict.text}; all so far is in {self.files.path}")
            self.saving.check()
            if is_due:
                self._save()
        self._save_once()
        interrupt.signal = asked
        return stop or Stop.INTERRUPT

    def _advance(self) -> dict[str, float]:
        """Makes one step; returns its figures."""
        deadline = self.config.step_deadline if self.is_compiled else None
        with self.watch.over("step", self.step + 1, deadline):
            made = self.steps.make(self.state, self.step, another=self._goes_on())
        self.state, figures, self.is_finite, numbers, seconds = made
        row = {name: float(value) for name, value in figures.items()}
        if "fitness/best" in row:
            self.best = max(self.best, row["fitness/best"])
            row["fitness/best_ever"] = self.best
        self.step, self.is_told = self.step + 1, False
        samples, before = row.pop("samples"), self.progress
        self.progress = Progress(
            seconds=time.perf_counter() - self.started,
            training_seconds=before.training_seconds + self.is_compiled * seconds,
            evaluations=before.evaluations + self.algorithm.members,
            samples=before.samples + samples,
        )
        if numbers:
            so_far = self.progress.facts()
            self.saving.hold(Record(self.step, so_far, numbers))
        if self.is_compiled:
            row["evaluations/s"] = self.algorithm.members / seconds
            row[f"{self.task.samples}/s"] = samples / seconds
        else:
            row["compile_seconds"] = seconds
            self.is_compiled = True
        return row | self.progress.facts()

    def _goes_on(self) -> bool:
        """Whether the step after the next one follows that at once."""
        after, last = self.step + 1, self.config.budget.generations
        validates = after % self.config.evaluate_every == 0
        return self.is_compiled and not validates and after != last

    def _warn_of(self, verdict: Verdict | None) -> None:
        """Tells, once a sitting, of a step that learnt nothing."""
        if verdict is not None and not verdict.is_fatal and not self.has_warned:
            self.has_warned = True
            self.report(verdict.text)

    def _validate(self) -> dict[str, float]:
        self.validation = self._validation(Purpose.VALIDATE)
        name, value = next(iter(self.validation.items()))
        self.saving.scores[self.step] = value
        self.report(f"step {self.step}: {name} {value:.6g}")
        figures = {f"validation/{name}": one for name, one in self.validation.items()}
        return self.progress.facts() | figures

    def _validation(self, purpose: Purpose) -> dict[str, float]:
        key = key_for(self.state.key, purpose, self.step)
        with self.watch.over("the validation of step", self.step):
            found = validated(self.experiment, self.state, key)
        return processes.by_first(lambda: found)

    def _has_reached_target(self) -> bool:
        target = self.config.budget.target
        if not is_reached(self.validation, target, self.task.maximise):
            return False
        # The best of many noisy figures flatters: a second one must agree.
        self.report(f"the target of {target:g} is reached; a second validation ...")
        self.validation = self._validation(Purpose.CONFIRM)
        is_so = is_reached(self.validation, target, self.task.maximise)
        value = next(iter(self.validation.values()))
        self.report(f"... {'confirms it' if is_so else 'does not'}: {value:.6g}")
        return is_so

    def _exhausted(self) -> Stop | None:
        return exhausted(self.config.budget, self.step, self.progress)

    def _agreed(
        self, stop: Stop | None, asked: signal.Signals | None
    ) -> tuple[Stop | None, signal.Signals | None, bool]:
        """Why all processes stop, and whether they save.

        By the first's clock; or for a signal that any got.
        """
        reasons = [None, *Stop]
        mine = 2 * reasons.index(stop) + self.saving.is_due(self.step)
        decision, number = processes.agreed(mine, asked or 0)
        signal_ = signal.Signals(number) if number else None
        return reasons[decision // 2], signal_, bool(decision % 2)

    def _save(self, *, wait: bool = False) -> None:
        if not all_finite(self.state.params):
            raise UserError(self._unfit())
        facts = {
            "progress": self.progress.facts(),
            "config": plain(self.config),
            "versions": versions(),
        }
        self.saving.save(self.step, self.state, facts, self.settle, wait=wait)

    def _unfit(self) -> str:
        self.saving.wait()
        saved, is_logged = self.checkpoints.steps(), self.saving.is_logging
        return of_parameters(self.step, saved, is_logged=is_logged)

    def _save_once(self) -> None:
        self.saving.wait()
        if self.step not in self.checkpoints.steps():
            self._save(wait=True)

    def _rescue(self) -> None:
        """Saves what there is after an error, if that can be done.

        Not amid a step, nor before its figures are written (it is made again) unless
        these cannot be written.
        """
        is_whole = self.is_told and 0 < self.step == int(self.state.step)
        if is_whole and not donation.is_gone(self.state):
            with contextlib.suppress(UserError):  # the first error is the one to tell
                self._save_once()
                self.report(f"step {self.step} is saved in {self.files.path}")

    def _begin(self) -> None:
        def begin() -> None:
            check_beginning(self.files, metrics.read(self.files.metrics))
            metrics.forget_after(self.files.metrics, -1)  # of a kill before a save

        processes.by_first(begin)

    def _resume(self) -> None:
        restored = resumed(self.files, self.checkpoints, self.state)
        for notice in notices(self.files, restored):
            self.report(notice)
        used = Progress.read(restored.facts["progress"])
        base = Rebuilt(restored.state, restored.step, used, self.config)
        found = replay.caught_up(self.experiment, self.files, base, self.report)
        self.state, self.step, self.progress, _ = found
        if stop := self._exhausted():
            raise UserError(
                f"{self.files.path}: nothing is left to do, {stop.value}: give it more "
                "with --generations, --seconds or --samples"
            )
        processes.by_first(lambda: settle(self.files))
        forget = lambda: metrics.forget_after(self.files.metrics, self.step)
        for trouble in processes.by_first(forget):
            self.report(trouble)
        rows = metrics.read(self.files.metrics)  # floats are written out in full
        self.best = max(
            [self.best, *(row.get("fitness/best", -math.inf) for row in rows)]
        )
        self.saving.recall(rows)
        last = self.step - restored.step
        how = f", the last {last} of them from the replay log" if last else ""
        self.report(f"resuming at step {self.step}{how}")
