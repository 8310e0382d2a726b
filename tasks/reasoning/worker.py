"""Scores what it is sent; each worker process runs this, and imports no JAX.

The parent writes pickles to its standard input and reads lines of JSON from its
standard output, one a job.
"""

import contextlib
import json
import math
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Job(NamedTuple):
    """Completions that are scored by one call, and what belongs to them."""

    prompts: list[Any]
    completions: list[str]
    columns: Mapping[str, list[Any]]


class Answer(NamedTuple):
    """What came of a job.

    Attributes:
        scores: of its completions; None where there is none.
        reason: why there is none, a word; "" where there is.
        details: in words.
    """

    scores: list[float] | None
    reason: str = ""
    details: str = ""


def attempt(reward: Any, job: Job) -> Answer:
    """Scores a job, whatever the reward does."""
    prompts, completions, columns = job
    try:
        found = reward(prompts, completions, **columns)
        return _checked(found, len(completions))
    except MemoryError:
        return Answer(None, "memory", "MemoryError")
    except KeyboardInterrupt:
        raise
    except BaseException:  # `exit()` too
        return Answer(None, "exception", traceback.format_exc(limit=-8)[-2000:])


def _checked(found: Any, count: int) -> Answer:
    if isinstance(found, str | bytes | Mapping) or not isinstance(found, Iterable):
        return Answer(None, "type", f"expected a list of numbers, got {found!r:.200}")
    scores = []
    for one in found:
        if isinstance(one, str | bytes) or one is None:
            return Answer(None, "type", f"expected a number, got {one!r:.200}")
        scores.append(float(one))
    if len(scores) != count:
        return Answer(None, "count", f"expected {count} scores, got {len(scores)}")
    if not all(map(math.isfinite, scores)):
        return Answer(None, "nan", f"expected finite numbers, got {scores!r:.200}")
    return Answer(scores)


def serve() -> None:
    """Answers jobs until there are no more."""
    inbox, outbox = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # what a reward prints is not what it says
        os.dup2(null, stream)

    def say(*words: Any) -> None:
        outbox.write(json.dumps(words).encode() + b"\n")
        outbox.flush()

    paths, pickled, memory, deadline = pickle.load(inbox)
    sys.path[:] = paths
    try:
        reward = pickle.loads(pickled)
        prepare = getattr(reward, "prepare", None)
        if prepare is not None:
            prepare()
        limit_memory(memory)
    except BaseException:
        return say(traceback.format_exc())
    say("")
    while True:
        try:
            job = pickle.load(inbox)
        except EOFError:
            return None
        except MemoryError:
            say(*Answer(None, "memory", "the job itself is too large"))
            return None  # the rest of it is still in the pipe
        limit_time(deadline)
        say(*attempt(reward, job))
        limit_time(0)


def limit_memory(more: float) -> None:
    """Lets this process have so many bytes more than it has, where that is known."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm") as file:  # noqa: PTH123 - no imports for a line
            now = int(file.read().split()[0]) * resource.getpagesize()
        limit = int(now + more)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def limit_time(seconds: float) -> None:
    """Ends this process a while after a deadline, should its parent not; 0: never."""
    spare = 2 * seconds + 10
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        if seconds:
            own = resource.getrusage(resource.RUSAGE_SELF)
            until = math.ceil(own.ru_utime + own.ru_stime + spare)
            _, hard = resource.getrlimit(resource.RLIMIT_CPU)
            resource.setrlimit(resource.RLIMIT_CPU, (until, hard))
        signal.setitimer(signal.ITIMER_REAL, spare if seconds else 0)
