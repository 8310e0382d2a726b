"""How far a run got, and why it ended."""

import dataclasses
import enum
import signal

from eggroll.config.schema import BudgetConfig
from eggroll.training.state import State


class Stop(enum.Enum):
    """Why a run ended; the value says it in words."""

    GENERATIONS = "all generations are done"
    SECONDS = "the training time is used up"
    SAMPLES = "the samples are used up"
    TARGET = "the target is reached"
    INTERRUPT = "interrupted"


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run has used so far, over all its sittings.

    Attributes:
        seconds: Of training: data and steps, without compilation and validation. The
            first step of each sitting compiles and is not counted.
        elapsed: Of wall-clock time, everything included.
        evaluations: Of fitness.
        samples: As the task counts them.
    """

    seconds: float = 0.0
    elapsed: float = 0.0
    evaluations: int = 0
    samples: float = 0.0


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
