"""The paper's comparison in miniature: EGGROLL, OpenES and PPO on equal frames.

    python -m benchmarks.control run [--seeds 3] [--only NAME...]   # hours; resumable
    python -m benchmarks.control table                              # from what is saved

Each run is that of a config in `configs/rl`, with another algorithm, seed and budget of
frames. Its figures are saved when it ends, in `benchmarks/results/control`, and it is
not run again. Two runs at once would falsify the times: run nothing beside it.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from eggroll import experiment, metrics, run as runs, settings, training


ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "control"
ALGORITHMS = ("eggroll", "openes", "ppo")
FRAMES = {  # by config; several times what the quickest algorithm needs
    "cartpole": 2e6,
    "acrobot": 5e6,
    "pendulum": 2e7,
    "navix_empty": 5e6,
    "navix_doorkey": 2e7,
    "minatar_breakout": 2e7,
    "inverted_double_pendulum": 1e7,
    "game2048": 2e7,
}


def file_of(name: str, algorithm: str, seed: int) -> Path:
    return RESULTS / f"{name}.{algorithm}.{seed}.json"


def train(name: str, algorithm: str, seed: int) -> dict[str, Any]:
    """One run; returns its curve and where it ended."""
    with tempfile.TemporaryDirectory() as folder:
        config = settings.load(
            ROOT / "configs" / "rl" / f"{name}.yaml",
            [
                ("algorithm", algorithm),
                ("seed", str(seed)),
                ("output", folder),
                ("budget.generations", "null"),
                ("budget.target", "null"),
                ("budget.samples", str(FRAMES[name])),
                ("diagnose_every", "0"),
                ("checkpoint_every", "1000000"),
            ],
            name=name,
        )
        run = runs.create(config)
        outcome = training.train(experiment.prepare(config), run)
        rows = [row for row in metrics.read(run.metrics) if "validation/return" in row]
    curve = [
        {
            "frames": row["samples"],
            "seconds": row["seconds"],
            "return": row["validation/return"],
        }
        for row in rows
    ]
    final, progress = outcome.validation, outcome.progress
    return {
        "environment": config.task.options["environment"],
        "return": final["return"],
        "seconds": progress.seconds,
        "frames": progress.samples,
        "updates": int(outcome.state.step),
        "versions": runs.versions(),
        "curve": curve,
    }


def run(names: list[str], seeds: int) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in range(seeds):
        for name in names:
            for algorithm in ALGORITHMS:
                path = file_of(name, algorithm, seed)
                if path.exists():
                    continue
                result = train(name, algorithm, seed)
                path.write_text(json.dumps(result) + "\n")
                print(
                    f"{name} {algorithm} seed {seed}: {result['return']:.1f} in "
                    f"{result['seconds']:.0f} s",
                    flush=True,
                )


def saved(name: str, algorithm: str) -> list[dict[str, Any]]:
    found = sorted(RESULTS.glob(f"{name}.{algorithm}.*.json"))
    return [json.loads(path.read_text()) for path in found]


def mean_and_error(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return statistics.fmean(values), float("nan")
    return statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5


def table() -> None:
    print("| environment | frames | " + " | ".join(ALGORITHMS) + " |")
    print("|---" * (2 + len(ALGORITHMS)) + "|")
    for name, frames in FRAMES.items():
        cells = []
        for algorithm in ALGORITHMS:
            results = saved(name, algorithm)
            if not results:
                cells.append("-")
                continue
            mean, error = mean_and_error([one["return"] for one in results])
            seconds, _ = mean_and_error([one["seconds"] for one in results])
            cells.append(
                f"{mean:.1f} ± {error:.1f} ({len(results)} seeds, {seconds:.0f} s)"
            )
        print(f"| {name} | {frames:.0e} | " + " | ".join(cells) + " |")


def figure() -> None:
    names = [name for name in FRAMES if any(saved(name, one) for one in ALGORITHMS)]
    if not names:
        return
    plot, axes = plt.subplots(
        2, len(names), figsize=(3 * len(names), 5), squeeze=False, layout="constrained"
    )
    for column, name in enumerate(names):
        for row, unit in enumerate(("frames", "seconds")):
            axis = axes[row, column]
            for index, algorithm in enumerate(ALGORITHMS):
                for number, result in enumerate(saved(name, algorithm)):
                    axis.plot(
                        [point[unit] for point in result["curve"]],
                        [point["return"] for point in result["curve"]],
                        color=f"C{index}",
                        alpha=0.7,
                        label=None if number else algorithm,
                    )
            axis.set_xlabel(unit)
            axis.set_title(name if row == 0 else "")
    axes[0, 0].legend()
    axes[0, 0].set_ylabel("return")
    plot.savefig(RESULTS / "curves.png", dpi=120)
    print(RESULTS.relative_to(ROOT) / "curves.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(FRAMES), default=list(FRAMES))
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.only, arguments.seeds)
    table()
    figure()


if __name__ == "__main__":
    main()
