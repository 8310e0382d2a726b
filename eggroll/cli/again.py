"""The options of `eggroll rewind` and `eggroll replay`; see `eggroll.cli.rewinding`."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eggroll.cli.saying import say


# The options of `replay`, which takes settings, too, that are none of these.
OPTIONS = ("help", "step", "output", "trust")


def describe(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the two commands."""
    about = "make a new run of what a run was after a step, evaluating nothing"
    rewind = command("rewind", _rewind, about)
    rewind.add_argument("directory", metavar="RUN")
    rewind.add_argument("--step", type=int, required=True, help="which")
    rewind.add_argument("--output", type=Path, help="a new directory; RUN-step-STEP")

    about = "make a run again from the log that somebody shares, evaluating nothing"
    replay = command("replay", _replay, about)
    replay.usage = (
        "eggroll replay LOG [--step STEP] [--output DIR] [--SETTING VALUE ...]"
    )
    replay.add_argument("log", metavar="LOG", help="the directory `replay` of a run")
    replay.add_argument("--step", type=int, help="to get to; the last")
    replay.add_argument("--output", type=Path, help="a new directory")
    for one in (rewind, replay):
        help_ = "run the code that somebody else's names"
        one.add_argument("--trust", action="store_true", help=help_)


def _rewind(options: argparse.Namespace, _: Any) -> int:
    from eggroll.cli import rewinding

    target = rewinding.Target(options.step, options.output, options.trust)
    return rewinding.rewind(options.directory, target, say)


def _replay(options: argparse.Namespace, overrides: Sequence[tuple[str, str]]) -> int:
    from eggroll.cli import rewinding

    target = rewinding.Target(options.step, options.output, options.trust)
    return rewinding.replay(options.log, overrides, target, say)
