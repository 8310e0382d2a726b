"""The paper's comparison in miniature: EGGROLL, OpenES and PPO on equal frames.

    python -m benchmarks.control run [--only NAME...]     # hours; resumable
    python -m benchmarks.control speed [--only NAME...]   # on a machine left alone
    python -m benchmarks.control table                    # from what is saved
    python -m benchmarks.control write                    # into the documents

Each algorithm is tuned first, by as many trials (`benchmarks.control_tuning`), and then
run with what was best and with other seeds. Figures are saved run by run, in
`benchmarks/results/control`, and no run is made twice. What else the machine does
falsifies times, so the cost of a step is measured apart (`benchmarks.control_speed`).
"""

import argparse
from collections.abc import Sequence

from benchmarks import control_report, control_speed, control_tuning
from benchmarks.control_runs import ALGORITHMS, RESULTS, Changes, Comparison, train
from benchmarks.control_tuning import Result
from eggroll import UserError


FRAMES = {  # by config, where none of the three is at its best at once
    "acrobot": 5e6,
    "pendulum": 4e6,
    "minatar_breakout": 3e6,
    "inverted_double_pendulum": 5e6,
    "game2048": 6e6,
}
SEEDS = 10
# PPO's config has the paper's 3 x 256 there, which take two cores a quarter of an hour.
SMALL = {"task.network": "mlp", "task.hidden": [64, 64]}
CHANGES = {("inverted_double_pendulum", "ppo"): control_tuning.as_changes(SMALL)}


def tune(name: str, algorithm: str) -> None:
    """Makes the trials that are missing; one that fails has no curve."""
    known, same = Comparison(name, algorithm), CHANGES.get((name, algorithm), ())

    def trial(seed: int, changes: Changes) -> Result:
        try:
            result = train(name, algorithm, seed, FRAMES[name] / 2, *same, *changes)
        except UserError as error:  # of weights that are not finite, for instance
            result = {"failed": str(error), "curve": []}
        score = control_tuning.score(result)
        print(f"{name} {algorithm} {len(known.trials)}: {score:.1f}", flush=True)
        return result

    control_tuning.search(algorithm, known.trials, trial, known.keep)


def compare(name: str, algorithm: str, seed: int) -> None:
    """Makes the run of a seed, if it is missing, with the best settings."""
    known = Comparison(name, algorithm)
    if seed < len(known.runs):
        return
    changes = CHANGES.get((name, algorithm), ())
    changes += control_tuning.as_changes(control_tuning.best(known.trials))
    result = train(name, algorithm, seed, FRAMES[name], *changes)
    known.runs.append(result)
    known.keep()
    found = f"{result['return']:.1f} in {result['seconds']:.0f} s"
    print(f"{name} {algorithm} seed {seed}: {found}", flush=True)


def run(names: Sequence[str]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in names:
        for algorithm in ALGORITHMS:
            tune(name, algorithm)
    for seed in range(SEEDS):
        for name in names:
            for algorithm in ALGORITHMS:
                compare(name, algorithm, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["run", "speed", "table", "write"])
    parser.add_argument("--only", nargs="+", choices=list(FRAMES), default=list(FRAMES))
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.only)
    elif arguments.command == "speed":
        control_speed.measure(arguments.only)
    elif arguments.command == "write":
        control_report.figure(FRAMES)
        for path in control_report.DOCUMENTS:
            text = path.read_text("utf-8")
            path.write_text(control_report.documented(text, FRAMES), "utf-8")
    for table in control_report.TABLES.values():
        print("\n".join(table(FRAMES)) + "\n")


if __name__ == "__main__":
    main()
