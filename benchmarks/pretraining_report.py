"""Tables and figure of `benchmarks.pretraining`, from what it saved."""

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes


RESULTS = Path(__file__).parent / "results" / "language"
SECONDS = RESULTS / "seconds.json"
METRIC = "validation/bits/byte"
STEPS = (50, 100, 200, 300)
LADDER = (64, 512, 4096, 32768)
Result = dict[str, Any]


def saved(corpus: str) -> dict[str, list[Result]]:
    """The runs of a corpus by the name of their case, a run a seed."""
    found: dict[str, list[Result]] = {}
    for path in sorted(RESULTS.glob(f"{corpus}.*.json")):
        one = json.loads(path.read_text())
        found.setdefault(one["case"], []).append(one)
    return found


def long_runs() -> dict[str, Result]:
    """The runs on Python's library, without those that chose a rate."""
    return {
        name: one for name, (one, *_) in saved("python").items() if "rate" not in name
    }


def tables() -> None:
    side_by_side(saved("python"))
    variants(saved("shakespeare"))


def side_by_side(runs: dict[str, list[Result]]) -> None:
    """Bits a byte on Python's library against steps and seconds."""
    long = long_runs()
    if not long:
        return
    print(references(next(iter(long.values()))))
    head = ["model, algorithm", "rate", *(f"{step} steps" for step in STEPS)]
    head += ["tokens a step", "s a step", "in 30 s", "in 60 s"]
    lines = []
    for name, one in long.items():
        at = {point["step"]: point["bits/byte"] for point in one["curve"]}
        rate = one["changes"].get("learning_rate", "-")
        figures = [cell(at.get(step)) for step in STEPS]
        last = one["curve"][-1]
        costs = [f"{last['tokens'] / last['step']:,.0f}"]
        costs += [cell(seconds_a_step(name, one))]
        costs += [cell(within(name, one, seconds)) for seconds in (30, 60)]
        lines.append([name, rate, *figures, *costs])
    by_bits = sorted(lines, key=lambda line: line[2 + STEPS.index(200)])
    write(head, by_bits)
    tried = {name: one for name, (one, *_) in runs.items() if "rate" in name}
    print("Rates tried, with bits a byte after a short run: ", end="")
    print("; ".join(f"{name}: {cell(one['bits/byte'])}" for name, one in tried.items()))


def variants(runs: dict[str, list[Result]]) -> None:
    """Bits a byte on tinyshakespeare, by rule of updating and by population."""
    if not runs:
        return
    print(f"\n{references(next(iter(runs.values()))[0])}")
    lines = []
    for name, all_ in runs.items():
        if name.endswith(" 2048"):
            values = [one["bits/byte"] for one in all_]
            spread = cell(statistics.stdev(values)) if len(values) > 1 else "-"
            each = ", ".join(map(cell, values))
            variant = name.removesuffix(" 2048")
            lines.append([variant, cell(statistics.fmean(values)), spread, each])
    head = ["2,048 members, 100 steps", "bits/byte", "deviation", "seeds"]
    write(head, sorted(lines, key=lambda x: x[1]))
    rows = [
        [mode, *(cell(reached(runs.get(f"{mode} {size}"))) for size in LADDER)]
        for mode in ("default", "paper")
    ]
    write(["100 steps, members", *(f"{size:,}" for size in LADDER)], rows)


def references(one: Result) -> str:
    lines = ", ".join(f"{name} {value:.2f}" for name, value in one["reference"].items())
    return f"Held-out part: {lines} bits a byte.\n"


def reached(all_: list[Result] | None) -> float | None:
    return statistics.fmean(one["bits/byte"] for one in all_) if all_ else None


def seconds_a_step(name: str, one: Result) -> float:
    """Measured alone, by `time`; if that has not run, while it was learning."""
    if SECONDS.exists() and name in (measured := json.loads(SECONDS.read_text())):
        return measured[name]
    return one["seconds"] / one["curve"][-1]["step"]


def within(name: str, one: Result, seconds: float) -> float | None:
    """The last figure before so many seconds of training were over."""
    each = seconds_a_step(name, one)
    points = [p for p in one["curve"] if 0 < p["step"] * each <= seconds]
    return points[-1]["bits/byte"] if points else None


def cell(value: float | None) -> str:
    if value is not None and value > 20:
        return "diverged"
    return "-" if value is None else f"{value:.3f}"


def write(head: Sequence[Any], lines: Iterable[Sequence[Any]]) -> None:
    """Prints a table in Markdown."""
    print("| " + " | ".join(map(str, head)) + " |")
    print("|---" * len(head) + "|")
    for line in lines:
        print("| " + " | ".join(map(str, line)) + " |")
    print()


def figure() -> None:
    plot, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained", sharey=True)
    long, shakespeare = long_runs(), saved("shakespeare")
    for index, (name, one) in enumerate(long.items()):
        curve = [point for point in one["curve"] if point["step"]]
        steps, bits = ([p[key] for p in curve] for key in ("step", "bits/byte"))
        each = seconds_a_step(name, one)
        style = dict(color=f"C{index}", marker=".", label=name)
        axes[0].plot(steps, bits, **style)
        axes[1].plot([each * step for step in steps], bits, **style)
    for axis, title in zip(
        axes, ("steps", "seconds of training", "members"), strict=True
    ):
        axis.set_xlabel(title)
    axes[1].set_xscale("log", base=2)
    axes[1].xaxis.set_major_formatter("{x:g}")
    for mode in ("default", "paper"):
        sizes = [size for size in LADDER if f"{mode} {size}" in shakespeare]
        bits = [reached(shakespeare[f"{mode} {size}"]) for size in sizes]
        axes[2].plot(sizes, bits, marker="o", label=mode)
    axes[2].set_xscale("log", base=8)
    axes[2].set_xticks(LADDER, [f"{size:,}" for size in LADDER])
    axes[0].set_title("Python's library")
    axes[1].set_title("Python's library, 2 CPU cores")
    axes[2].set_title("tinyshakespeare, 100 steps")
    axes[0].set_ylabel("bits a byte, held-out part")
    if long:
        lines(axes[0], next(iter(long.values())))
        axes[1].legend(fontsize="x-small")
    if shakespeare:
        lines(axes[2], next(iter(shakespeare.values()))[0])
        axes[2].legend(fontsize="x-small")
    plot.savefig(RESULTS / "curves.png", dpi=120)
    print(f"drawn: {RESULTS / 'curves.png'}")


def lines(axis: Axes, one: Result) -> None:
    """What simple models need."""
    for name in ("unigram", "bigram"):
        value = one["reference"][name]
        axis.axhline(value, color="#9ca3af", linewidth=1, linestyle="--")
        axis.annotate(
            name,
            (0.99, value),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize="x-small",
        )
