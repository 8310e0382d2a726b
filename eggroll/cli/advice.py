"""The commands that say how a run fares, and what ails it."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eggroll.cli.saying import say


# What `doctor` shows of every run, and how it is read.
SIGNS = {
    "gradient/agreement": "of half-populations: 1 is no noise, 0 nothing else",
    "fitness/spread": "of a generation",
    "fitness/tied": "share of members whose fitness another has, too",
    "fitness/unusable": "share of members that count for nothing",
    "shaped/effective": "share of members that the update is worth",
    "update/ratio": "of the update's norm to that of the parameters",
    "update/rms": "by which a weight moves",
    "parameters/rms": "size of a weight",
    "parameters/drift": "distance from the start, in norms of the start",
    "update/lost": "share of updates that rounding swallows",
    "votes/margin": "0.80 is noise alone",
    "update/changed": "share of integer weights that move",
    "weights/saturated": "share of integer weights at the end of their range",
}


def describe(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds these commands."""
    doctor = command("doctor", _doctor, "say what ails a run, and what to try")
    doctor.add_argument("directory", metavar="RUN")

    report = command("report", _report, "write a run into one HTML file")
    report.add_argument("directory", metavar="RUN")
    report.add_argument("--output", type=Path, help="RUN/report.html")
    about = "run the code that a RUN of somebody else names, for its coverage"
    report.add_argument("--trust", action="store_true", help=about)


def _doctor(options: argparse.Namespace, _: Any) -> int:
    from eggroll import runs
    from eggroll.runs import metrics
    from eggroll.training import doctor

    path = Path(options.directory)
    outline, settings = runs.outline(path), runs.settings_of(path)
    rows, troubles = metrics.examine(outline.metrics)
    for trouble in troubles:
        say(trouble)
    case = doctor.Case(rows, settings, outline.maximise, outline.leaves)
    say(f"{path}: {case.steps} steps, medians of the second half")
    for name, about in signs(case).items():
        say(f"  {name:<18} {case.late(name):>9.3g}  {about}")
    if case.steps < doctor.FEWEST:
        say(f"too few steps to tell: {doctor.FEWEST} are needed, better 20")
        return 0
    found = doctor.findings(case)
    for finding in found:
        say(f"{finding.name}: {finding.words}.\n    Try: {finding.remedy}.")
    if not found:
        say("nothing is known to be wrong")
    return 1 if found else 0


def _report(options: argparse.Namespace, _: Any) -> int:
    from eggroll.cli import report

    path = report.write(Path(options.directory), options.output, options.trust)
    say(str(path))
    return 0


def signs(case: Any) -> dict[str, str]:
    """Those of `SIGNS` that a run has figures of."""
    return {name: about for name, about in SIGNS.items() if len(case.of(name))}
