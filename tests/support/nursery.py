"""Commands as processes of their own that begin at once: what is slow is imported once.

A process imports it and nothing more (JAX starts no thread before its first array), and
is forked for each command. What a command lives through, killed or not, is its own.
"""

import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn


ROOT = Path(__file__).parents[2]
SLOW = (
    "eggroll.cli.main",
    "eggroll.training",
    "matplotlib.pyplot",
    "orbax.checkpoint",
    "tasks.control",
    "tasks.language",
    "tasks.reasoning",
    "tasks.supervised",
)
PATIENCE = 300.0  # seconds, after which what is told once more is not heeded


class ByChance(RuntimeError):
    """An error where nobody expects one."""


class Life:
    """A command that was begun.

    Attributes:
        pid: Of its process.
    """

    def __init__(self, pid: int, nursery: "Nursery"):
        self.pid, self._nursery = pid, nursery
        self.code: int | None = None

    def has_ended(self, seconds: float = 0.0) -> bool:
        """Whether it has, by so many seconds from now."""
        if self.code is None and self._nursery.has_told(seconds):
            self.code = self._nursery.told()["code"]
        return self.code is not None

    def end(self, kind: signal.Signals) -> int:
        """Sends it a signal; how it ended: as `subprocess` has it.

        What Python swallows is sent again: a handler may run where no error can leave.
        """
        wait = 5.0 if kind is signal.SIGUSR1 else PATIENCE
        for _ in range(3):
            os.kill(self.pid, kind)
            if self.has_ended(wait):
                break
        return self.result()

    def result(self) -> int:
        """How it ended, once it does."""
        if not self.has_ended(PATIENCE):
            os.kill(self.pid, signal.SIGKILL)
            raise TimeoutError(f"it goes on and on: {self.said}")
        assert self.code is not None
        return self.code

    @property
    def said(self) -> str:
        """What it wrote to stderr, or the end of that."""
        return self._nursery.errors.read_text(errors="replace")[-4000:]


class Nursery:
    """Begins commands, one after the other; SIGUSR1 is an error within them."""

    def __init__(self, folder: Path):
        """Starts the process that others are forked from.

        Args:
            folder: In which commands run, and what they compile is kept.
        """
        self.errors = folder / "stderr.txt"
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests/support")])
        variables = os.environ | {
            "PYTHONPATH": paths,
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
            "OPENBLAS_NUM_THREADS": "1",  # whose threads no fork has
            "EGGROLL_CACHE": str(folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        variables.pop("JAX_COMPILATION_CACHE_DIR", None)  # ours, as users have it
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nursery", str(self.errors)],
            env=variables,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, words: list[str]) -> Life:
        """Begins `eggroll WORDS`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return Life(self.told()["pid"], self)

    def run(self, *words: str) -> None:
        """Runs `eggroll WORDS`, which must succeed."""
        life = self.begin([*words])
        assert life.result() == 0, life.said

    def has_told(self, seconds: float) -> bool:
        """Whether there is news by so many seconds from now."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], seconds)[0])

    def told(self) -> dict[str, Any]:
        """The next news."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """Ends the process, once its last command has ended."""
        self._process.communicate(timeout=PATIENCE)


def _fail(number: int, frame: FrameType | None) -> None:
    # An error amid a reward would be the reward's own: counted, and the run goes on.
    stack = (one.f_code.co_filename for one, _ in traceback.walk_stack(frame))
    if not any(name.endswith("reasoning/worker.py") for name in stack):
        raise ByChance("by chance")


def _live(words: list[str], errors: str) -> NoReturn:
    from eggroll.cli.main import main

    nowhere = os.open(os.devnull, os.O_RDWR)
    file = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for old, new in ((nowhere, 0), (nowhere, 1), (file, 2)):
        os.dup2(old, new)
    signal.signal(signal.SIGUSR1, _fail)
    try:
        code = main(words)
    except ByChance:
        traceback.print_exc()
        code = 1
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    sys.exit(code)


def _serve(errors: str) -> None:
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            _live(json.loads(line), errors)
        _tell(pid=pid)
        _tell(code=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _tell(**news: int) -> None:
    sys.stdout.write(json.dumps(news) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    for name in SLOW:
        importlib.import_module(name)
    gc.freeze()  # so that no child copies it all to count references
    _serve(sys.argv[1])
