"""Ctrl-C, SIGTERM and a lost connection as a request to stop at the next safe place."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows
KINDS = tuple(filter(None, (signal.SIGINT, signal.SIGTERM, HANGUP)))


class Interrupt:
    """Whether somebody asked to stop, and by which signal."""

    def __init__(self):
        self.signal: signal.Signals | None = None


@contextlib.contextmanager
def interruptible(notice: Callable[[str], None]) -> Iterator[Interrupt]:
    """Notes the first SIGINT, SIGTERM or SIGHUP; a second one stops at once as usual.

    But SIGHUP, of which a connection that drops may send several, is ignored from then
    on; and altogether where it was before, as `nohup` has it.

    Args:
        notice: Told in words that the first one arrived.
    """
    interrupt = Interrupt()
    # Only the main thread may install handlers; elsewhere the caller must stop us.
    is_main = threading.current_thread() is threading.main_thread()
    before = {kind: signal.getsignal(kind) for kind in KINDS} if is_main else {}
    if HANGUP is not None and before.get(HANGUP) is signal.SIG_IGN:
        del before[HANGUP]

    def restore() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    def note(number: int, _: object) -> None:
        interrupt.signal = signal.Signals(number)
        restore()
        if HANGUP is not None and HANGUP in before:
            signal.signal(HANGUP, signal.SIG_IGN)
        notice("stopping after this step and saving; once more to stop at once")

    for kind in before:
        signal.signal(kind, note)
    try:
        yield interrupt
    finally:
        restore()
