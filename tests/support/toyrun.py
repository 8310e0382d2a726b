"""Runs of a second, for the tests of what happens around training."""

from pathlib import Path
from typing import Any

import toy

from eggroll import runs, training
from eggroll.config import Config, override, resolve
from eggroll.runs import Run, metrics
from eggroll.training import Outcome, ahead


TIMES = (
    "seconds",
    "training_seconds",
    "evaluations/s",
    "examples/s",
    "compile_seconds",
)


def config(output: Path, *overrides: str, task: str = "Line") -> Config:
    """A run of a second, by default with backprop, which compiles fastest."""
    tree: dict[str, Any] = {
        "task": {"class": f"toy:{task}"},
        "algorithm": "backprop",
        "strategy": {"population": 8, "sigma": 0.05},
        "optimizer": {"name": "adam", "learning_rate": 0.05},
        "budget": {"generations": 12},
        "evaluate_every": 4,
        "checkpoint_every": 5,
        "mesh": {"devices": 1},
        "output": str(output),
        "name": "line",
    }
    for word in overrides:
        name, value = word.split("=", 1)
        override(tree, name, value, is_text=True)
    return resolve(tree)


def train(settings: Config, report=lambda _: None) -> tuple[Run, Outcome]:
    run = runs.create(settings)
    return run, training.train(training.prepare(settings), run, report=report)


def resume(path: Path, report=lambda _: None) -> Outcome:
    run = runs.load(path, trust=True)
    return training.train(training.prepare(run.config), run, report=report)


def figures(run: Run) -> list[dict[str, float]]:
    """What was measured, without the times."""
    return [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in metrics.read(run.metrics)
    ]


def interrupt_at(monkeypatch, task: str, step: int, action) -> None:
    """Makes the batch of one step do something unforeseen, once.

    No step is begun ahead, so that all before it is written.
    """
    monkeypatch.setattr(ahead, "LONGEST", 0.0)
    cls, done = getattr(toy, task), []
    batch = cls.batch

    def interrupted(self, state, at, key):
        if at == step and not done:
            done.append(at)
            action()
        return batch(self, state, at, key)

    monkeypatch.setattr(cls, "batch", interrupted)
