"""Table and figure of `benchmarks.reasoning`, from what it saved."""

import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes


RESULTS = Path(__file__).parent / "results" / "reasoning"
Result = dict[str, Any]
AXES = {"seconds": "seconds of one core", "tokens": "tokens completed (MeZO: read)"}


def saved() -> dict[tuple[str, str], list[Result]]:
    """The long runs of each model and method, a run a seed."""
    found: dict[tuple[str, str], list[Result]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        if ".search." not in path.name:
            one = json.loads(path.read_text())
            found.setdefault((one["model"], one["method"]), []).append(one)
    return found


def table() -> None:
    """Prints what is solved at the end of long runs, and what that took."""
    head = ["model", "method", "start", "solved", "deviation", "each", "steps"]
    lines = [[*head, "tokens", "peak MiB"]]
    for (model, method), every in saved().items():
        last = [one["curve"][-1] for one in every]
        ends = [one["solved"] for one in last]
        middle = lambda name, of: statistics.median(one[name] for one in of)
        lines.append([
            model,
            method,
            f"{every[0]['curve'][0]['solved']:.3f}",
            f"{statistics.fmean(ends):.3f}",
            f"{statistics.stdev(ends):.3f}" if len(ends) > 1 else "-",
            ", ".join(f"{one:.3f}" for one in ends),
            f"{middle('steps', last):,.0f}",
            f"{middle('tokens', last):,.0f}",
            f"{middle('peak_MiB', every):,.0f}",
        ])  # fmt: skip
    lines.insert(1, ["---"] * len(lines[0]))
    for line in lines:
        print(f"| {' | '.join(line)} |")


def figure() -> None:
    """Draws what is solved against seconds and tokens, one row a model."""
    runs = saved()
    models = sorted({model for model, _ in runs}, reverse=True)
    if not models:
        return
    made, axes = plt.subplots(
        len(models), 2, figsize=(9, 3.2 * len(models)), squeeze=False, sharey=True
    )
    for row, model in zip(axes, models, strict=True):
        for panel, name in zip(row, AXES, strict=True):
            of = {method: x for (which, method), x in runs.items() if which == model}
            _draw(panel, of, name)
            panel.set_title(model)
    axes[0, 1].legend(loc="upper left")
    made.tight_layout()
    made.savefig(RESULTS / "curves.png", dpi=120)


def _draw(panel: Axes, runs: dict[str, list[Result]], name: str) -> None:
    """Each seed as a thin line, and their mean, point by point, as a thick one."""
    for number, (method, every) in enumerate(runs.items()):
        curves = [one["curve"] for one in every]
        for curve in curves:
            x, y = ([point[key] for point in curve] for key in (name, "solved"))
            panel.plot(x, y, color=f"C{number}", linewidth=0.5)
        points = list(zip(*curves, strict=False))
        x, y = (
            [statistics.fmean(one[key] for one in point) for point in points]
            for key in (name, "solved")
        )
        panel.plot(x, y, color=f"C{number}", label=method)
    panel.set_xlabel(AXES[name])
    panel.set_ylabel("solved, held out")
    if name == "tokens":
        panel.set_xscale("symlog", linthresh=10_000)
