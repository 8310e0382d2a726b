"""The comparison's tables and curves, from what is saved, into the documents."""

import re
from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

from benchmarks import control_speed, control_tuning
from benchmarks.control_runs import (
    ALGORITHMS,
    RESULTS,
    ROOT,
    Comparison,
    Result,
    mean_and_error,
)


DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "control.md")
TABLE = re.compile(r"(<!-- control: (\w+) -->\n)(?:\|.*\n)*")  # in a document
POINTS = 100  # of a mean curve

Frames = Mapping[str, float]  # by environment


def in_words(values: list[float]) -> str:
    mean, error = mean_and_error(values)
    return f"{mean:,.0f} ± {error:,.0f}" if error >= 10 else f"{mean:.4g} ± {error:.2g}"


def lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of Markdown."""
    body = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(row) + " |" for row in body]


def runs(name: str) -> dict[str, list[Result]]:
    """By algorithm, the runs of the seeds that all have in an environment."""
    found = {one: Comparison(name, one).runs for one in ALGORITHMS}
    seeds = min(map(len, found.values()))
    return {algorithm: every[:seeds] for algorithm, every in found.items()}


def compared(frames: Frames) -> Frames:
    """Those environments in which all have run, and not only been tuned."""
    return {name: one for name, one in frames.items() if all(runs(name).values())}


def scores(frames: Frames) -> list[str]:
    """Final returns."""
    rows = []
    for name, budget in compared(frames).items():
        found = runs(name)
        cells = [in_words([run["return"] for run in every]) for every in found.values()]
        seeds = str(len(found[ALGORITHMS[0]]))
        rows.append([name, f"{budget:.0e}".replace("e+0", "e"), seeds, *cells])
    return lines(["environment", "frames", "seeds", "EGGROLL", "OpenES", "PPO"], rows)


def settings(frames: Frames) -> list[str]:
    """What the search chose, and the scores of all its trials, the config's first."""
    rows = []
    for name in frames:
        for algorithm in ALGORITHMS:
            if trials := Comparison(name, algorithm).trials[: control_tuning.TRIALS]:
                found = ", ".join(f"{control_tuning.score(x):.4g}" for x in trials)
                chosen = ", ".join(
                    f"{key.rpartition('.')[2]} {value}"
                    for key, value in control_tuning.best(trials).items()
                )
                rows.append([name, algorithm, found, chosen or "the config's"])
    return lines(["environment", "algorithm", "trials", "settings of the best"], rows)


def speeds(frames: Frames) -> list[str]:
    """What the rank costs in time, with the config's network and with the paper's."""
    head = ["environment", "EGGROLL, frames/s", "over OpenES", "over PPO"]
    head += [f"3x256: {head[1]}", *head[2:]]
    rows = []
    for name, rates in control_speed.read().items():
        row = [name]
        for found in rates.values():
            own = found["eggroll"]
            row.append(f"{own:,.0f}")
            row += [f"{own / found[other]:.2g}" for other in ("openes", "ppo")]
        rows.append(row)
    return lines(head, rows)


TABLES: dict[str, Callable[[Frames], list[str]]] = {
    "scores": scores,
    "settings": settings,
    "speeds": speeds,
}


def documented(text: str, frames: Frames) -> str:
    """A document with its tables as they follow from what is saved."""
    made = lambda found: found[1] + "\n".join(TABLES[found[2]](frames)) + "\n"
    return TABLE.sub(made, text)


def along(frames: float, found: Sequence[Result]) -> tuple[np.ndarray, ...]:
    """The mean and its standard error of some runs' curves, over the same frames."""
    places = np.linspace(0, frames, POINTS)
    curves = np.array(
        [
            np.interp(
                places,
                [point["frames"] for point in one["curve"]],
                [point["return"] for point in one["curve"]],
            )
            for one in found
        ]
    )
    error = curves.std(0, ddof=1) / len(curves) ** 0.5 if len(curves) > 1 else 0.0
    return places, curves.mean(0), np.broadcast_to(error, places.shape)


def figure(frames: Frames) -> None:
    """Mean curves, with bands of a standard error."""
    frames = compared(frames)
    plot, axes = plt.subplots(
        1,
        len(frames),
        figsize=(4 * len(frames), 3.6),
        layout="constrained",
        squeeze=False,
    )
    for axis, (name, budget) in zip(axes.flat, frames.items(), strict=True):
        for algorithm, found in runs(name).items():
            places, mean, error = along(budget, found)
            axis.plot(places, mean, label=algorithm)
            axis.fill_between(places, mean - error, mean + error, alpha=0.3)
        axis.set(title=f"{name}, {len(found)} seeds", xlabel="frames", ylabel="return")
        axis.legend()
    plot.savefig(RESULTS / "curves.png", dpi=120)
    plt.close(plot)
