"""Rademacher or gaussian noise, and of which rank: the evidence for the defaults.

    python -m benchmarks.variants     # resumable; a few minutes an environment

Each run is that of a config in `configs/rl` with another noise, rank and seed. Two
figures tell how well it learnt within a budget of frames: the return at its end, and
the mean return of all its validations, which tells how soon it got there. A weight's
perturbation has the same variance in all of them; full rank is there to compare.
"""

import itertools
import json
import statistics
from typing import Any

from benchmarks.control_runs import ROOT, mean_and_error, train


RESULTS = ROOT / "benchmarks" / "results" / "variants.json"
Results = dict[str, dict[str, Any]]  # by environment, noise, rank and seed
FRAMES = {"cartpole": 2e5, "acrobot": 3e6, "pendulum": 4e6}
RANKS = (1, 2, 4, None)
NOISES = ("rademacher", "gaussian")
SEEDS = 5


def run(name: str, noise: str, rank: int | None, seed: int) -> dict[str, Any]:
    changes = [("noise", noise), ("evaluate_every", "1" if name == "cartpole" else "2")]
    if rank:
        changes.append(("rank", str(rank)))
    algorithm = "eggroll" if rank else "openes"
    return train(name, algorithm, seed, FRAMES[name], *changes)


def read() -> Results:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def write(results: Results) -> None:
    lines = (f"{json.dumps(name)}: {json.dumps(x)}" for name, x in results.items())
    RESULTS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def soon(result: dict[str, Any]) -> float:
    """The mean return over the frames, its start left out."""
    return statistics.fmean(point["return"] for point in result["curve"][1:])


def table(results: Results) -> None:
    print("| environment | noise | rank | at the end | mean over the run | seeds |")
    print("|---|---|---|---|---|---|")
    for name, noise, rank in itertools.product(FRAMES, NOISES, RANKS):
        case = f"{name}.{noise}.{rank or 'full'}."
        if found := [x for key, x in results.items() if key.startswith(case)]:
            end, error = mean_and_error([one["return"] for one in found])
            mean, spread = mean_and_error([soon(one) for one in found])
            print(
                f"| {name} | {noise} | {rank or 'full'} | {end:.1f} ± {error:.1f} | "
                f"{mean:.1f} ± {spread:.1f} | {len(found)} |"
            )


def main() -> None:
    results = read()
    for name, noise, rank, seed in itertools.product(
        FRAMES, NOISES, RANKS, range(SEEDS)
    ):
        key = f"{name}.{noise}.{rank or 'full'}.{seed}"
        if key not in results:
            results[key] = run(name, noise, rank, seed)
            write(results)
            print(f"{key}: {results[key]['return']:.1f}", flush=True)
    table(results)


if __name__ == "__main__":
    main()
