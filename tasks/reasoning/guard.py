"""Calls rewards so that they can neither hang, nor crash, nor lie by silence.

Worker processes score the completions, one at a time each, against a deadline that
their parent keeps: who overruns it is killed and replaced. They are plain processes
that import no more than the reward: no main module is imported anew, and no JAX.
"""

import collections
import contextlib
import pickle
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Float

from eggroll import UserError
from tasks.reasoning.processes import Worker, end, pickled
from tasks.reasoning.worker import Answer, Job, attempt


AHEAD, PIPE = 16, 2**14  # jobs, and bytes, that a worker has before it at once


class Scored(NamedTuple):
    """What a reward says of completions.

    Attributes:
        scores: all finite; where scoring failed, the worst there is.
        failures: of each completion: "", or why it could not be scored: "deadline",
            "memory", "crash", "exception", "nan", "type" or "count".
        seconds: that its call took, but for the start of a worker.
        details: for each reason, the words of one failure.
    """

    scores: Float[np.ndarray, " completions"]
    failures: list[str]
    seconds: Float[np.ndarray, " completions"]
    details: dict[str, str]

    def plain(self) -> dict[str, Any]:
        """The same, as JSON holds it."""
        lists = {"scores": self.scores.tolist(), "seconds": self.seconds.tolist()}
        return self._asdict() | lists

    @classmethod
    def of(cls, parts: Sequence[Mapping[str, Any]]) -> Self:
        """What was said of all completions, from what was said of parts of them."""
        together = lambda name: [x for part in parts for x in part[name]]
        details = {}
        for part in parts:
            details = {**part["details"], **details}
        scores, seconds = (np.asarray(together(x)) for x in ("scores", "seconds"))
        return cls(scores, together("failures"), seconds, details)

    @property
    def failed(self) -> dict[str, int]:
        """How many completions could not be scored, by reason."""
        return dict(collections.Counter(one for one in self.failures if one))

    def solved(self, score: float = 1.0) -> Bool[np.ndarray, " completions"]:
        """Which completions got a score that counts as solved; none that failed."""
        fine = np.asarray([not one for one in self.failures], bool)
        return (self.scores >= score) & fine


class Guard:
    """A reward, behind worker processes.

    Args:
        reward: `(prompts, completions, **columns) -> list[float]`, such as
            `rewards.find` gives. Worker processes import it: it must stand in a module,
            or, of a notebook, be a function that cloudpickle can take along.
        processes: how many; 0 to score in this process, where nothing but exceptions is
            caught: for verifiers that are known to end, such as our own.
        deadline: seconds for one call.
        memory: that a worker may take for its calls, in GiB.
        together: completions a call. If one fails, all of them do: more than one is for
            rewards that compare completions.
        start: seconds in which a worker must have started, and imported the reward.

    Raises:
        UserError: a setting is impossible, or the workers cannot have the reward.
    """

    def __init__(
        self,
        reward: Any,
        *,
        processes: int = 2,
        deadline: float = 5.0,
        memory: float = 1.0,
        together: int = 1,
        start: float = 120.0,
    ):
        for name, value, least in (
            ("processes", processes, 0),
            ("together", together, 1),
        ):
            if value < least:
                raise UserError(f"{name} must be at least {least}, got {value}")
        for name, value in (("deadline", deadline), ("memory", memory)):
            if not value > 0:
                raise UserError(f"{name} must be positive, got {value}")
        self.reward, self.deadline, self.together = reward, deadline, together
        self.start = start
        content = pickled(reward) if processes else b""
        greeting = (list(sys.path), content, memory * 2**30, deadline)
        self._workers = [Worker(greeting, start) for _ in range(processes)]
        weakref.finalize(self, end, self._workers)
        self._busy = threading.Lock()

    def score(
        self,
        prompts: Sequence[Any],
        completions: Sequence[str],
        columns: Mapping[str, Sequence[Any]] | None = None,
        groups: Sequence[Any] | None = None,
    ) -> Scored:
        """Scores completions, in their order.

        Args:
            prompts: of each.
            completions: to score.
            columns: for each name a value for each completion.
            groups: to which each belongs, such as the number of its prompt: what cannot
                be scored gets the least of its group, or the reward's `floor` if that
                is less. Without, all are one group.

        Raises:
            UserError: there are not as many of one as of the other, or a worker cannot
                start.
        """
        count, columns = len(completions), dict(columns or {})
        groups = [0] * count if groups is None else groups
        given = {"prompts": prompts, "groups": groups, **columns}
        for name, values in given.items():
            if len(values) != count:
                raise UserError(
                    f"scoring: expected one value for each of {count} completions in "
                    f"{name!r}, got {len(values)}"
                )
        parts = [slice(i, i + self.together) for i in range(0, count, self.together)]
        jobs = [
            Job(
                list(prompts[part]),
                list(completions[part]),
                {name: list(values[part]) for name, values in columns.items()},
            )
            for part in parts
        ]
        with self._busy:
            done = self.answered(jobs)
        return self._gathered(jobs, done, groups)

    def answered(self, jobs: list[Job]) -> list[tuple[Answer, float]]:
        """What the reward says to jobs, and the seconds of each."""
        return self._in_workers(jobs) if self._workers else self._here(jobs)

    def try_out(self, prompt: Any, columns: Mapping[str, Any]) -> None:
        """Scores a problem's reference, or a word, before a run depends on it.

        Raises:
            UserError: the reward fails on all that it is given, with the reason.
        """
        known = getattr(self.reward, "reference", None)
        reference = known(**columns) if known is not None else None
        texts = [reference or "one", "1"]
        lists = {name: [value] * len(texts) for name, value in columns.items()}
        found = self.score([prompt] * len(texts), texts, lists)
        if all(found.failures):
            reason = found.failures[0]
            last = found.details[reason].strip().splitlines()[-1]
            raise UserError(
                f"the reward fails on a first completion, {texts[0]!r:.80}, by "
                f"{reason}: {last}\n\n{found.details[reason]}"
            )

    def close(self) -> None:
        """Ends the workers; what is scored later starts others.

        It happens by itself when nobody needs the guard, and at the end of the program.
        """
        end(self._workers)

    def __enter__(self) -> "Guard":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _here(self, jobs: list[Job]) -> list[tuple[Answer, float]]:
        done = []
        for job in jobs:
            begun = time.perf_counter()
            done.append((attempt(self.reward, job), time.perf_counter() - begun))
        return done

    def _in_workers(self, jobs: list[Job]) -> list[tuple[Answer, float]]:
        waiting = collections.deque(
            (i, pickle.dumps(job)) for i, job in enumerate(jobs)
        )
        done: list[Any] = [None] * len(jobs)
        troubles: list[BaseException] = []
        busy: set[Worker] = set()
        many = len(self._workers)

        def work(worker: Worker) -> None:
            busy.add(worker)
            while not troubles and (taken := _taken(waiting, many)):
                try:
                    worker.ready()
                    begun = time.perf_counter()
                    contents = [content for _, content in taken]
                    for answer in worker.run(contents, self.deadline):
                        now = time.perf_counter()
                        done[taken.popleft()[0]] = answer, now - begun
                        begun = now
                except BaseException as error:
                    troubles.append(error)
                waiting.extendleft(reversed(taken))  # which the dead did not come to
            busy.discard(worker)

        threads = [
            threading.Thread(target=work, args=(worker,), daemon=True)
            for worker in self._workers[: len(jobs)]
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException as error:  # Ctrl-C
            troubles.append(error)  # nobody takes another
            while busy:  # maybe with starting a process; (`is_alive` is wrong of a
                end(self._workers)  # thread whose `join` was interrupted)
                time.sleep(0.01)
            end(self._workers)
            raise
        if troubles:
            raise troubles[0]
        return done

    def _gathered(
        self, jobs: list[Job], done: list[tuple[Answer, float]], groups: Sequence[Any]
    ) -> Scored:
        scores, failures, seconds, details = [], [], [], {}
        for job, (answer, taken) in zip(jobs, done, strict=True):
            count = len(job.completions)
            scores += [np.nan] * count if answer.scores is None else answer.scores
            failures += [answer.reason] * count
            seconds += [taken / count] * count
            if answer.reason:
                details.setdefault(answer.reason, answer.details)
        found = np.asarray(scores, np.float64)
        worst = worst_of(found, groups, getattr(self.reward, "floor", None))
        found = np.where(np.isnan(found), worst, found)
        return Scored(found, failures, np.asarray(seconds), details)


def _taken(waiting: collections.deque, workers: int) -> collections.deque:
    """Takes some jobs from those that wait, one by one towards the end."""
    share = max(1, min(AHEAD, len(waiting) // (2 * workers)))
    taken, size = collections.deque(), 0
    with contextlib.suppress(IndexError):  # another thread was faster
        while len(taken) < share and size < PIPE:
            taken.append(waiting.popleft())
            size += len(taken[-1][1])
    return taken


def worst_of(
    scores: Float[np.ndarray, " completions"],
    groups: Sequence[Any],
    floor: float | None = None,
) -> Float[np.ndarray, " completions"]:
    """The least score of each completion's group, of those that are no NaN.

    Where a whole group has none, it is the least of all, and 0 where there is none at
    all; `floor` if that is less.
    """
    fine = scores[~np.isnan(scores)]
    least_of_all = float(fine.min()) if fine.size else 0.0
    least: dict[Any, float] = {}
    for group, score in zip(groups, scores.tolist(), strict=True):
        if score == score:
            least[group] = min(least.get(group, score), score)
    worst = np.asarray([least.get(group, least_of_all) for group in groups], np.float64)
    return worst if floor is None else np.minimum(worst, floor)
