"""How far a run got, and why it ended."""

import dataclasses
import enum
import signal
from collections.abc import Mapping
from typing import Any, Self

from eggroll.config.schema import BudgetConfig
from eggroll.training.state import State


class Stop(enum.Enum):
    """Why a run ended; the value says it in words."""

    GENERATIONS = "all generations are done"
    SECONDS = "the time is used up"
    SAMPLES = "the samples are used up"
    TARGET = "the target is reached"
    INTERRUPT = "interrupted"


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run has used so far, over all its sittings.

    Attributes:
        seconds: Of wall-clock time in all sittings, everything included: start-up and
            compilation, steps, validation, checkpoints. Budgets, curves and what is
            printed mean these.
        training_seconds: Of these, within steps and their data; but not the first step
            of each sitting, which compiles.
        evaluations: Of fitness.
        samples: As the task counts them.
    """

    seconds: float = 0.0
    training_seconds: float = 0.0
    evaluations: int = 0
    samples: float = 0.0

    def facts(self) -> dict[str, Any]:
        """What is used, by name (`dataclasses.asdict` takes twenty times as long)."""
        return {**vars(self)}

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> Self:
        """What a checkpoint notes; older ones call the two times otherwise."""
        if "elapsed" in facts:
            times = {"seconds": facts["elapsed"], "training_seconds": facts["seconds"]}
            facts = {**facts, **times}
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: facts[name] for name in names})


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        stop: Why.
        state: The last state; it is saved.
        validation: The last figures of the unperturbed parameters.
        progress: What was used.
        signal: What interrupted it, if anything did.
    """

    stop: Stop
    state: State
    validation: dict[str, float]
    progress: Progress
    signal: signal.Signals | None


def exhausted(budget: BudgetConfig, step: int, progress: Progress) -> Stop | None:
    """Which part of a run's budget is used up, if any is."""
    if budget.generations is not None and step >= budget.generations:
        return Stop.GENERATIONS
    if budget.seconds is not None and progress.seconds >= budget.seconds:
        return Stop.SECONDS
    if budget.samples is not None and progress.samples >= budget.samples:
        return Stop.SAMPLES
    return None


def is_reached(
    validation: dict[str, float], target: float | None, maximise: bool
) -> bool:
    """Whether the headline metric, the first one, is as good as the target."""
    headline = next(iter(validation.values()))
    if target is None:
        return False
    return headline >= target if maximise else headline <= target
