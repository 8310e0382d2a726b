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
from pathlib import Path
from typing import Any

from benchmarks.control import ROOT, mean_and_error, train


RESULTS = ROOT / "benchmarks" / "results" / "variants"
FRAMES = {"cartpole": 2e5, "acrobot": 3e6, "pendulum": 4e6}
RANKS = (1, 2, 4, None)
NOISES = ("rademacher", "gaussian")
SEEDS = 5


def file_of(name: str, noise: str, rank: int | None, seed: int) -> Path:
    return RESULTS / f"{name}.{noise}.{rank or 'full'}.{seed}.json"


def run(name: str, noise: str, rank: int | None, seed: int) -> None:
    path = file_of(name, noise, rank, seed)
    if path.exists():
        return
    algorithm = "eggroll" if rank else "openes"
    changes = [("noise", noise), ("evaluate_every", "1" if name == "cartpole" else "2")]
    if rank:
        changes.append(("rank", str(rank)))
    result = train(name, algorithm, seed, FRAMES[name], *changes)
    path.write_text(json.dumps(result) + "\n")
    print(f"{name} {noise} {rank} {seed}: {result['return']:.1f}", flush=True)


def saved(name: str, noise: str, rank: int | None) -> list[dict[str, Any]]:
    found = sorted(RESULTS.glob(f"{name}.{noise}.{rank or 'full'}.*.json"))
    return [json.loads(path.read_text()) for path in found]


def soon(result: dict[str, Any]) -> float:
    """The mean return over the frames, its start left out."""
    return statistics.fmean(point["return"] for point in result["curve"][1:])


def table() -> None:
    print("| environment | noise | rank | at the end | mean over the run | seeds |")
    print("|---|---|---|---|---|---|")
    for name, noise, rank in itertools.product(FRAMES, NOISES, RANKS):
        if results := saved(name, noise, rank):
            end, error = mean_and_error([one["return"] for one in results])
            mean, spread = mean_and_error([soon(one) for one in results])
            print(
                f"| {name} | {noise} | {rank or 'full'} | {end:.1f} ± {error:.1f} | "
                f"{mean:.1f} ± {spread:.1f} | {len(results)} |"
            )


def main() -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    for case in itertools.product(FRAMES, NOISES, RANKS, range(SEEDS)):
        run(*case)
    table()


if __name__ == "__main__":
    main()
