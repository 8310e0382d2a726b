"""Somebody who looks at the clock while a step is made: one that hangs is told of.

It looks from a thread of its own, so that to be watched costs a step no more than to
note the time. Python that hangs can be ended, too: the handler of a signal runs in the
main thread, whatever it waits for, and raises. What hangs within a compiled program, or
in other code that never comes back to Python, can only be told of.
"""

import contextlib
import signal
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple, Self

from eggroll.errors import UserError


PATIENCE = 60.0  # seconds after which it is told, and
TIMES = 10  # how often the longest one before has to fit into them
EVERY = 1.0  # seconds between two looks
# It is ignored by default, and nobody sends it to those who have not asked for it.
SIGNAL = getattr(signal, "SIGURG", None)  # not on Windows
LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib"))


class Doing(NamedTuple):
    """What is being done.

    Attributes:
        kind: Of it, of which others may have been before.
        name: Of this one.
        started: By the clock `time.monotonic`.
        deadline: Seconds that it may take; None: any.
    """

    kind: str
    name: str
    started: float
    deadline: float | None


class Watch:
    """Looks at what the thread that entered it is at, until that leaves it."""

    def __init__(self, say: Callable[[str], None]):
        """Does not look yet.

        Args:
            say: Told of what takes long.
        """
        self._say = say
        self._at: Doing | None = None
        self._overdue: Doing | None = None
        self._longest: dict[str, float] = {}
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        self._thread = threading.get_ident()
        is_main = threading.current_thread() is threading.main_thread()
        self._before = None
        if is_main and SIGNAL is not None:
            self._before = signal.signal(SIGNAL, self._end)
        threading.Thread(target=self._look, name="watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._before is not None and SIGNAL is not None:
            signal.signal(SIGNAL, self._before)

    @contextlib.contextmanager
    def over(
        self, kind: str, name: object, deadline: float | None = None
    ) -> Iterator[None]:
        """Has it look at the block.

        Args:
            kind: Of what happens there.
            name: Of it among its kind.
            deadline: Seconds after which it is ended by an error, if it can be; None:
                never.

        Raises:
            UserError: It has taken longer.
        """
        self._at = at = Doing(kind, f"{kind} {name}", time.monotonic(), deadline)
        try:
            yield
        finally:
            self._at = None
            took = time.monotonic() - at.started
            self._longest[kind] = max(took, self._longest.get(kind, 0.0))

    def _look(self) -> None:
        told = None
        while not self._closed.wait(EVERY):
            at = self._at
            if at is None:
                continue
            took, longest = time.monotonic() - at.started, self._longest.get(at.kind, 0)
            if took > max(PATIENCE, TIMES * longest) and told is not at:
                told, frame = at, sys._current_frames().get(self._thread)
                self._say(
                    f"{at.name} has taken {took:.0f} s so far{_where(frame)}; Ctrl-C "
                    "twice ends it, and step_deadline would have: no other step is lost"
                )
            if at.deadline is not None and took > at.deadline and SIGNAL is not None:
                self._overdue = at
                signal.pthread_kill(self._thread, SIGNAL)

    def _end(self, _: int, frame: FrameType | None) -> None:
        """The handler: raises if what is being done is overdue."""
        at = self._at
        if at is None or at is not self._overdue:
            return
        raise UserError(
            f"{at.name} takes longer than the {at.deadline:g} s that step_deadline "
            f"allows{_where(frame)}: mend what hangs there or raise step_deadline, and "
            "resume"
        )


def _where(frame: FrameType | None) -> str:
    """The innermost line that is no library's, in words."""
    lines = traceback.extract_stack(frame) if frame else []
    own = [one for one in lines if not one.filename.startswith(LIBRARIES)]
    if not own:
        return ""
    last = own[-1]
    return f", in {Path(last.filename).name}, line {last.lineno} ({last.name})"
