"""A process that scores: started when needed, killed when late, replaced when dead."""

import contextlib
import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from eggroll import UserError
from tasks.reasoning.worker import Answer


BOOT = (
    "import sys; sys.path[:] = {paths!r}; from tasks.reasoning.worker import serve; "
    "serve()"
)
# One thread each, and no accelerator: that is the parent's.
SETTINGS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}


class Worker:
    """One process at a time, with one job after the other.

    (A plain process and two pipes: those of `multiprocessing` import the main module
    anew, with JAX if it does, and not at all from some notebooks and scripts.)

    Args:
        greeting: what `tasks.reasoning.worker.serve` is told first.
        start: seconds in which a process must be ready.
    """

    def __init__(self, greeting: tuple[list[str], bytes, float, float], start: float):
        self._greeting, self._start = greeting, start
        self.process: subprocess.Popen | None = None

    def run(self, jobs: Sequence[bytes], deadline: float) -> Iterator[Answer]:
        """Lets a process score jobs, each a pickle; starts one if there is none.

        Yields:
            Answers, in the order of the jobs; fewer than those if one of them was the
            end of the process.

        Raises:
            UserError: it does not start.
        """
        process = self.ready()
        with Watch(process, deadline) as watch:
            for _, line in zip(jobs, _said(process, b"".join(jobs)), strict=False):
                watch.renew()
                answer = Answer(*json.loads(line)) if line else None
                if answer is not None:
                    yield answer
                # Of what has eaten its memory, the rest may be in pieces.
                if answer is None or answer.reason == "memory" or watch.is_late:
                    break
            else:
                return
        self._end(process)
        if answer is None:
            code = process.returncode
            over = watch.is_late or -code == getattr(signal, "SIGXCPU", 0)
            reason = "deadline" if over else "crash"
            yield Answer(None, reason, f"exit status {code} within {deadline} s")

    def ready(self) -> subprocess.Popen:
        """The process, started if there is none.

        Raises:
            UserError: it does not start.
        """
        return self.process or self._started()

    def kill(self) -> None:
        """Ends the process now, and those that it has started."""
        if (process := self.process) is not None:
            self._end(process)

    def _end(self, process: subprocess.Popen) -> None:
        """Ends this one, and no other that has been started since."""
        if self.process is process:
            self.process = None
        _kill(process)

    def _started(self) -> subprocess.Popen:
        program = BOOT.format(paths=self._greeting[0])
        process = self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **SETTINGS},
            start_new_session=True,  # Ctrl-C is for the parent
        )
        with Watch(process, self._start) as watch:
            line = next(_said(process, pickle.dumps(self._greeting)))
        late = f"it was not ready after {self._start} s"
        ended = late if watch.is_late else "the process has ended"
        trouble = json.loads(line)[0] if line else ended
        if trouble:
            self._end(process)
            last = trouble.strip().splitlines()[-1]
            raise UserError(
                f"the reward does not load in a worker process: {last}\n\n{trouble}"
            )
        return process


class Watch:
    """Kills a process that is still watched when its time is over."""

    def __init__(self, process: subprocess.Popen, seconds: float):
        self._process, self._seconds = process, seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self.is_late = False
        self.renew()

    def renew(self) -> None:
        """Gives the process its time again."""
        self._until = time.monotonic() + self._seconds

    def _wait(self) -> None:
        while (left := self._until - time.monotonic()) > 0:
            if self._done.wait(left):
                return
        self.is_late = True
        _signal(self._process)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()  # it may be killing just now


def _said(process: subprocess.Popen, message: bytes) -> Iterator[str]:
    """The lines that a process answers, whole ones; nothing where they end."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(message)
        process.stdin.flush()
        while True:
            line = process.stdout.readline().decode()
            yield line if line.endswith("\n") else ""
    except (OSError, ValueError):  # the pipe is broken, or was closed by `kill`
        yield ""


def _signal(process: subprocess.Popen) -> None:
    """Kills a process and its children; someone has to wait for it afterwards."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _kill(process: subprocess.Popen) -> None:
    """Kills a process and its children, and takes it off the system's list."""
    _signal(process)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(OSError):  # what was left to say to the dead
            pipe.close()


def end(workers: Sequence[Worker]) -> None:
    """Ends all processes."""
    for worker in workers:
        worker.kill()


def pickled(reward: Any) -> bytes:
    """A reward as a worker can read it.

    Raises:
        UserError: it cannot be found again in another process.
    """
    try:
        content = pickle.dumps(reward)
        if b"__main__" not in content:
            return content
        trouble = "it is defined in the main program or a notebook"
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        trouble = str(error)
    if importlib.util.find_spec("cloudpickle"):
        import cloudpickle

        return cloudpickle.dumps(reward)
    raise UserError(
        f"worker processes cannot import the reward: {trouble}. Put it into a module, "
        "or install cloudpickle, which takes functions along; processes=0 scores in "
        "this process, where nothing stops a call that hangs"
    )
