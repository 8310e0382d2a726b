"""One sitting at a time: who writes to a directory holds a lock on it.

The lock is the operating system's, on a file that stays. It goes with the process,
however that ends, and holds between machines where the file system has locks: NFS has.
"""

import contextlib
import errno
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from eggroll.errors import UserError


NAME = ".lock"
# Of file systems that have no locks at all, in the words of several of them.
WITHOUT = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def sitting(directory: Path) -> Iterator[None]:
    """Holds the lock on a directory, which exists, for the time of the block.

    Where the file system has no locks, there is a warning in the log instead.

    Raises:
        UserError: Another process has it, or another block of this one.
    """
    with (directory / NAME).open("a+", encoding="utf-8") as file:
        try:
            _lock(file)
        except OSError as error:
            if error.errno not in WITHOUT:
                raise _taken(directory, file) from error
            logging.getLogger(__name__).warning(
                "%s is on a file system without locks (%s): see to it yourself that "
                "nobody else resumes what is in it",
                directory,
                error.strerror,
            )
        file.truncate(0)
        file.write(_who())
        file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # of file systems without locks
                _unlock(file)


def _who() -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()} since {at}"


def _taken(directory: Path, file: IO[str]) -> UserError:
    with contextlib.suppress(OSError):  # where locks keep others from reading, too
        file.seek(0)
        if holder := file.read(200).strip():
            return _in_use(directory, holder)
    return _in_use(directory, "another process")


def _in_use(directory: Path, holder: str) -> UserError:
    return UserError(
        f"{directory} is in use by {holder}: wait for it to end, or end it; "
        "its lock goes with it"
    )


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[str]) -> None:
        file.seek(1 << 20)  # a byte beyond what is written, which stays readable
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

    def _unlock(file: IO[str]) -> None:
        file.seek(1 << 20)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(file: IO[str]) -> None:
        # Even if a process that was forked meanwhile has the file open still.
        fcntl.flock(file, fcntl.LOCK_UN)
