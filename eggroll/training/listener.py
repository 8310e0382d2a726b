"""Those who watch a run: what becomes of them is none of the run's business."""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm


Report = Callable[[str], None]


class Listener:
    """Somebody who is told in words, and the bar on a terminal.

    Whatever either raises, such as a pipe that nobody reads any more, detaches it: the
    run goes on, and the log says so once.
    """

    def __init__(self, report: Report, run: Path):
        """Tells nothing yet.

        Args:
            report: Told in words what happens.
            run: The directory in which all of it can be found afterwards.
        """
        self._report: Report | None = report
        self._bar: tqdm | None = None
        self._run = run

    def __call__(self, text: str) -> None:
        """Tells what happened."""
        if self._report is None:
            return
        try:
            self._report(text)
        except Exception as error:
            self._report = None
            self._lost("what happens", error)

    def lost(self, sink: str, error: Exception) -> None:
        """Tells that a place for figures is lost, and why."""
        self(f"{sink} gets no more figures: {type(error).__name__}: {error}"[:400])

    @contextlib.contextmanager
    def bar(self, total: int | None, initial: int):
        """Shows a bar for the time of the block, if there is a terminal."""
        shown: Any = {"unit": "step", "leave": False, "disable": None}
        shown["desc"] = "compiling"  # until a step is through
        try:
            self._bar = tqdm(total=total, initial=initial, **shown)
        except Exception as error:
            self._lost("the bar", error)
        try:
            yield
        finally:
            self._on_bar(tqdm.close)
            self._bar = None

    def advance(self) -> None:
        """Moves the bar by one step."""
        self._on_bar(lambda bar: bar.set_description(refresh=False))
        self._on_bar(tqdm.update)

    def _on_bar(self, action: Callable[[tqdm], object]) -> None:
        if self._bar is None:
            return
        try:
            action(self._bar)
        except Exception as error:
            self._bar.disable, self._bar = True, None
            self._lost("the bar", error)

    def _lost(self, what: str, error: Exception) -> None:
        logging.getLogger(__name__).warning(
            "%s is shown no more (%s: %s); the run goes on in %s",
            what,
            type(error).__name__,
            error,
            self._run,
        )
