"""Starts several processes of `jax.distributed` on this machine, and looks at them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple


ROOT = Path(__file__).parents[2]
FLAG = "--xla_force_host_platform_device_count"


class Ended(NamedTuple):
    """What became of a process."""

    status: int
    text: str


class Started:
    """Processes that know each other, with some devices each."""

    def __init__(
        self, arguments: Sequence[str], folder: Path, *, processes: int, devices: int
    ):
        """Starts `python ARGUMENTS --coordinator ... --processes N --process I`."""
        port = _free_port()
        self._files = [folder / f"process-{i}.txt" for i in range(processes)]
        paths = [ROOT, ROOT / "tests/support"]
        flags = os.environ.get("XLA_FLAGS", "").split()
        flags = [word for word in flags if not word.startswith(FLAG)]
        env = os.environ | {
            "XLA_FLAGS": " ".join([*flags, f"{FLAG}={devices}"]),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        self.parents = []
        for i, file in enumerate(self._files):
            peers = ("--coordinator", f"localhost:{port}", "--processes", processes)
            words = [*arguments, *map(str, peers), "--process", str(i)]
            with file.open("w") as out:
                self.parents.append(
                    subprocess.Popen(
                        [sys.executable, *words], stdout=out, stderr=out, env=env
                    )
                )

    def text(self, process: int) -> str:
        """What one has said so far."""
        return self._files[process].read_text(errors="replace")

    def worker(self, process: int) -> int:
        """The process number of the worker that a parent has started."""
        pid = self.parents[process].pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0])

    def wait_until(self, holds: Callable[[], bool], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "\n".join(map(self.text, (0, 1)))
            time.sleep(0.05)

    def wait(self, seconds: float = 240) -> list[Ended]:
        """Waits for the end of all."""
        end = time.monotonic() + seconds
        with self:
            status = [p.wait(max(0.1, end - time.monotonic())) for p in self.parents]
        return [Ended(code, self.text(i)) for i, code in enumerate(status)]

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *_: object) -> None:
        for i, parent in enumerate(self.parents):
            if parent.poll() is None:
                with contextlib.suppress(OSError, IndexError):
                    os.kill(self.worker(i), signal.SIGKILL)
                parent.kill()


def train(
    config: Path | str,
    *settings: str,
    folder: Path,
    processes: int = 2,
    devices: int = 4,
    patience: float = 45,
) -> Started:
    """`eggroll train CONFIG --distributed` on each process."""
    words = ["-m", "eggroll", "train", str(config), *settings]
    words += ["--distributed", "--patience", str(patience)]
    return Started(words, folder, processes=processes, devices=devices)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]
