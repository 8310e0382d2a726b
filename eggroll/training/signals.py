"""Ctrl-C and SIGTERM as a request to stop at the next safe place."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


class Interrupt:
    """Whether somebody asked to stop, and by which signal."""

    def __init__(self):
        self.signal: signal.Signals | None = None


@contextlib.contextmanager
def interruptible(notice: Callable[[str], None]) -> Iterator[Interrupt]:
    """Notes the first SIGINT or SIGTERM; a second one stops at once as usual.

    Args:
        notice: Told in words that the first one arrived.
    """
    interrupt = Interrupt()
    # Only the main thread may install handlers; elsewhere the caller must stop us.
    is_main = threading.current_thread() is threading.main_thread()
    kinds = (signal.SIGINT, signal.SIGTERM) if is_main else ()
    before = {kind: signal.getsignal(kind) for kind in kinds}

    def restore() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    def note(number: int, _: object) -> None:
        interrupt.signal = signal.Signals(number)
        restore()
        notice("stopping after this step and saving; once more to stop at once")

    for kind in kinds:
        signal.signal(kind, note)
    try:
        yield interrupt
    finally:
        restore()
