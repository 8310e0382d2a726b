"""What is searched for each algorithm before it is compared, by `benchmarks.control`.

Random search as in the paper (arXiv 2511.16652, appendix), in small: with a hundredth
of its frames an update has to be cheaper and to go further, so that populations and
workers are smaller and rates of evolution higher than in its spaces; adam throughout,
and any rate between the bounds. The first trial is of the config as it stands. All
algorithms have as many trials, of half the frames; the best one's settings are those of
the runs that are compared, which have other seeds.
"""

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.control_runs import Changes, Result
from eggroll.config.search_space import Range, Space, draw


TRIALS = 5
DRAWS, SEED = 1, 1000  # seeds of what is drawn, and of all trials
LAST = 3  # validations whose mean is a trial's score

EVOLUTION: Space = {
    "strategy.population": (64, 128, 256, 512),
    "strategy.sigma": (0.05, 0.1, 0.2, 0.5),
    "strategy.shaping": ("zscore", "centred_rank"),
    "optimizer.learning_rate": Range(low=0.01, high=0.2, kind="log"),
    "task.deterministic": (True, False),
}
SPACES: Mapping[str, Space] = {
    "eggroll": {**EVOLUTION, "strategy.rank": (1, 2, 4)},
    "openes": EVOLUTION,
    "ppo": {
        "optimizer.learning_rate": Range(low=0.0001, high=0.001, kind="log"),
        "task.ppo.workers": (16, 64, 128),
        "task.ppo.steps": (64, 128),
        "task.ppo.epochs": (4, 8),
        "task.ppo.minibatches": (16, 32, 64),
        "task.ppo.discount": (0.95, 0.99, 0.995, 0.999),
        "task.ppo.trace": (0.9, 0.95, 0.98),
        "task.ppo.clip": (0.1, 0.2, 0.3),
        "task.ppo.entropy": (0.0, 0.0001, 0.001),
        "task.ppo.value": (0.5, 0.75, 1.0),
        "task.ppo.gradient_norm": (0.5, 1.0, 2.0),
    },
}


def settings_of(algorithm: str, trial: int) -> dict[str, Any]:
    """What a trial changes of the config."""
    return draw(SPACES[algorithm], DRAWS, trial) if trial else {}


def as_changes(settings: Mapping[str, Any]) -> Changes:
    """Settings as they are typed on the command line."""
    return tuple((name, json.dumps(value)) for name, value in settings.items())


def score(result: Result) -> float:
    """The mean of the last validations; of a run that failed the least there is."""
    last = [point["return"] for point in result["curve"][-LAST:]]
    return statistics.fmean(last) if last else -math.inf


def best(trials: Sequence[Result]) -> dict[str, Any]:
    """The settings of the trial of the greatest score."""
    return max(trials[:TRIALS], key=score)["settings"]


def search(
    algorithm: str,
    trials: list[Result],
    train: Callable[[int, Changes], Result],
    keep: Callable[[], None],
) -> None:
    """Makes the trials that are missing, and keeps each when it ends."""
    for trial in range(len(trials), TRIALS):
        settings = settings_of(algorithm, trial)
        trials.append({"settings": settings} | train(SEED, as_changes(settings)))
        keep()
