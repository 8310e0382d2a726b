"""When a run with a loop of its own ends, and what it says then."""

import dataclasses
import enum
import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int

from eggroll.evolution.validation import check_whole


class Stop(enum.StrEnum):
    """Why a run ended; the value says it in words."""

    NOTHING = ""
    TARGET = "the target is reached"
    PATIENCE = "the best loss has not improved for as many steps as patience allows"
    FAILED = "no member has a finite loss to learn from"
    STEPS = "all steps are done"
    SECONDS = "the time is used up"
    REPORT = "report asked to stop"
    INTERRUPT = "interrupted"

    @property
    def number(self) -> int:
        """What stands for it on a device; 0 for none."""
        return [*Stop].index(self)


@dataclasses.dataclass(frozen=True)
class Rules:
    """When to stop.

    Attributes:
        steps: as in `minimise`, and so all others.
        target: None: no matter how low.
        patience: None: without end.
        min_improvement: of the best loss, for `patience`.
        seconds: None: no matter how many. A matter of the host's.
        report_every: None: a hundredth of `steps`, and at most 100.

    Raises:
        ValueError: for a rule that cannot work.
    """

    steps: int
    target: float | None
    patience: int | None
    min_improvement: float
    seconds: float | None
    report_every: int | None

    def __post_init__(self) -> None:
        for name in ("steps", "patience", "report_every"):
            check_whole(self, name)
        for name in ("steps", "min_improvement"):
            if getattr(self, name) is None:
                raise ValueError(f"{name} must be a number, got None")
        for name, least in (
            ("target", -math.inf),
            ("min_improvement", 0.0),
            ("seconds", 0.0),
        ):
            _check_number(name, getattr(self, name), least)

    @property
    def block(self) -> int:
        """How many steps the device makes before the host looks."""
        return min(self.report_every or min(-(-self.steps // 100), 100), self.steps)

    def reason(self, best_value: Any, idle: Any, *, failed: Any) -> Int[Array, ""]:
        """The number of the first reason in `Stop` that a device knows; 0 for none.

        Args:
            best_value: the best loss so far.
            idle: for how many steps it has not improved.
            failed: whether nothing could be learnt from the last step.
        """
        reasons = [(failed, Stop.FAILED)]
        if self.patience is not None:
            reasons.append((idle >= self.patience, Stop.PATIENCE))
        if self.target is not None:
            reasons.append((best_value <= self.target, Stop.TARGET))
        number = jnp.int32(0)
        for holds, reason in reasons:  # the last one that holds is the first in order
            number = jnp.where(holds, reason.number, number)
        return number


def _check_number(name: str, value: Any, least: float) -> None:
    if value is None:
        return
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not number >= least:
        above = "" if least == -math.inf else f" of at least {least:g}"
        raise ValueError(f"{name} must be a number{above}, got {value!r}")
