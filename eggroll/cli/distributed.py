"""Runs of several processes: one on each host, each under the eye of a parent.

When a process dies, JAX ends the others by an abort that no Python sees, and one that
is stuck but lives keeps them waiting for ever. So `eggroll train --distributed` starts
a worker, which does all of it, and watches: of a worker that has ended so, or has not
made a step for too long, it says how to go on.
"""

import argparse
import contextlib
import dataclasses
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from eggroll.errors import UserError


Say = Callable[[str], None]

# The number of the pipe, open in the worker, on which it tells how far it is.
PIPE = "EGGROLL_WORKER_PIPE"
HEARTBEAT = 10  # seconds after which JAX takes a process that is silent for dead
TIMES = 3  # as long as the longest step a worker may always be silent
SKYPILOT, PORT = "SKYPILOT_NODE_IPS", 12400  # a line for each node, the first first
STUCK = 75  # exit status of "try again later" (sysexits.h)


OPTIONS = ("distributed", "coordinator", "processes", "process", "patience")


def describe(train: argparse.ArgumentParser) -> None:
    """Adds the options of a run of several processes to a command."""
    train.add_argument(
        "--distributed",
        action="store_true",
        help="be one of a run's processes, of which each host has one",
    )
    unsaid = "; where no cluster says so"
    train.add_argument(
        "--coordinator", metavar="HOST:PORT", help=f"of the first process{unsaid}"
    )
    train.add_argument("--processes", type=int, help=f"how many there are{unsaid}")
    train.add_argument(
        "--process", type=int, help=f"number of this one, from 0{unsaid}"
    )
    train.add_argument(
        "--patience",
        type=float,
        default=45,
        help="seconds without a step after which a process is ended, at least; 45",
    )


def is_worker() -> bool:
    """Whether a parent watches this process."""
    return PIPE in os.environ


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Makes this process one of several; before anything else asks JAX for a device.

    Args:
        coordinator: host and port of the first; None: the cluster says.
        processes: how many there are; None: the cluster says.
        process: the number of this one; None: the cluster says.

    Raises:
        UserError: if there are no others to be found.
    """
    import jax

    if os.environ.get("JAX_ENABLE_RECOVERABILITY", "0").lower() not in ("0", "false"):
        raise UserError(
            "JAX_ENABLE_RECOVERABILITY is set, with which processes wait for ever for "
            "one that died: unset it"
        )
    if coordinator is None and SKYPILOT in os.environ:  # which JAX does not know
        hosts = os.environ[SKYPILOT].split()
        coordinator, processes = f"{hosts[0]}:{PORT}", len(hosts)
        process = int(os.environ["SKYPILOT_NODE_RANK"])
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"--distributed: {str(error).splitlines()[0]}: on SLURM, a pod of TPUs, "
            "Kubernetes or under mpirun nothing more need be said; elsewhere say "
            "--coordinator HOST:PORT --processes N --process I on each host"
        ) from error


def told(text: str) -> None:
    """Tells the parent of a worker: the run's directory first, then each step."""
    if is_worker():
        with contextlib.suppress(OSError):  # a parent that is gone watches no more
            os.write(int(os.environ[PIPE]), f"{text}\n".encode())


def watch(arguments: Sequence[str], patience: float, say: Say) -> int:
    """Starts a worker with the arguments of this command, and waits for its end.

    Args:
        arguments: of the command.
        patience: seconds without a step after which the worker is ended, at least.
        say: told what became of it, if it could not tell itself.

    Returns:
        Its exit status, or `STUCK` if all processes have to be started anew.
    """
    reading, writing = os.pipe()
    worker = subprocess.Popen(
        [sys.executable, "-m", "eggroll", *arguments],
        env=os.environ | {PIPE: str(writing)},
        pass_fds=(writing,),
        process_group=0,  # a Ctrl-C reaches it by way of this process, once
    )
    os.close(writing)
    with _forwarded(worker):
        pulse = _followed(reading, patience)
        if pulse.is_stuck:
            worker.kill()
        status = worker.wait()
    os.close(reading)
    if not pulse.is_stuck and status >= 0:
        return status  # what it refused, or was asked, it has said itself
    why = f"was ended by {signal.Signals(-status).name}"
    if pulse.is_stuck:
        why = f"made no step for {pulse.limit:.0f} seconds and was ended"
    go_on = "nothing was trained yet: start it anew"
    if pulse.run:
        go_on = f"go on with: eggroll train --resume {pulse.run} --distributed"
    say(
        f"this host's worker {why}: a process of another host may have died, or wait "
        f"for one that did. When all are well, {go_on}"
    )
    return STUCK


@dataclasses.dataclass
class _Pulse:
    """What a worker has told.

    Attributes:
        limit: seconds within which the next word is due; None: it may take its time.
        run: the directory of the run; empty as long as there is none.
        is_stuck: whether that was too long.
    """

    limit: float | None = None
    run: str = ""
    is_stuck: bool = False


def _followed(pipe: int, patience: float) -> _Pulse:
    """Reads what a worker tells until it ends, or is silent for too long.

    What it does first, such as compiling, may take any time.
    """
    pulse, text, last, longest = _Pulse(), "", time.monotonic(), 0.0
    while True:
        ready, _, _ = select.select([pipe], [], [], pulse.limit)
        pulse.is_stuck = not ready
        heard = os.read(pipe, 4096) if ready else b""
        if not heard:
            return pulse
        text += heard.decode()
        pulse.run, has_run, steps = text.partition("\n")
        waited, last = time.monotonic() - last, time.monotonic()
        if has_run and steps:
            longest = max(longest, waited)
            pulse.limit = max(patience, TIMES * longest)


@contextlib.contextmanager
def _forwarded(worker: subprocess.Popen) -> Iterator[None]:
    """Hands signals that ask to stop to the worker, which saves first."""

    def hand_on(number: int, _: object) -> None:
        worker.send_signal(number)

    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {kind: signal.signal(kind, hand_on) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
