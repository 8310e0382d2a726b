"""A run, as far as a doctor looks at it: its figures, and what they say together."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from eggroll.config.bounds import INT32_MAX
from eggroll.config.pieces import Schedule
from eggroll.errors import UserError
from eggroll.training import instantiate


class Finding(NamedTuple):
    """Something is wrong.

    Attributes:
        name: Of the sickness.
        words: What is wrong.
        remedy: What to try.
    """

    name: str
    words: str
    remedy: str


class Case(NamedTuple):
    """A run, as far as it is looked at.

    Attributes:
        rows: Of `metrics.jsonl`, in order.
        settings: Of `config.yaml`, as plain data.
        maximise: Whether a larger headline metric is better.
        leaves: Paths of the parameters, as `update/leaf` numbers them.
    """

    rows: Sequence[Mapping[str, float]]
    settings: Mapping[str, Any]
    maximise: bool = True
    leaves: Sequence[str] = ()

    def of(self, name: str) -> Float[np.ndarray, " measured"]:
        """A figure, of the steps that have it."""
        return np.array([row[name] for row in self.rows if name in row], float)

    def late(self, name: str) -> float:
        """The median of a figure over the second half of the run; NaN: it has none."""
        found = self.of(name)
        return float(np.median(found[len(found) // 2 :])) if len(found) else np.nan

    def strategy(self, name: str, default: Any) -> Any:
        """A setting of the strategy."""
        return (self.settings.get("strategy") or {}).get(name, default)

    @property
    def steps(self) -> int:
        """How many steps there are figures of."""
        return len(self.of("fitness/mean"))

    @property
    def sigma(self) -> float:
        """As it was at the last step; NaN if it cannot be known."""
        last = max((row["step"] for row in self.rows), default=0)
        return self._sigma_at(last)

    @property
    def final_sigma(self) -> float:
        """As it is where its schedule ends; NaN if it cannot be known."""
        return self._sigma_at(INT32_MAX)

    def _sigma_at(self, step: float) -> float:
        adapted = self.of("sigma")
        if len(adapted):
            return float(adapted[-1])
        try:
            parsed = Schedule.parse(self.strategy("sigma", np.nan), "sigma")
            made = instantiate.schedule(parsed)
        except UserError:
            return np.nan
        return float(np.asarray(made(step))) if callable(made) else made

    @property
    def move(self) -> float:
        """By how much a step moves a weight, usually; NaN if there is no telling."""
        if self.settings.get("precision") == "bfloat16":
            # The weights that rounding lets move, of a master copy, move far.
            return self.late("update/ratio") * self.late("parameters/rms")
        return self.late("update/rms")


def is_noise(case: Case) -> bool:
    """Whether the gradient's halves agree no more than chance has them, and little."""
    cosines = case.of("gradient/agreement")
    if len(cosines) < 2:
        return False
    error = cosines.std(ddof=1) / np.sqrt(len(cosines))
    return bool(cosines.mean() < max(2 * error, 0.02) and cosines.mean() < 0.1)


def improves(case: Case) -> bool:
    """Whether fitness has risen by more than its scatter explains, or did so early."""
    mean = case.of("fitness/mean")
    if len(mean) < 6:
        return False
    late = mean[-len(mean) // 3 :]
    leap = late.mean() - mean[:2].mean()
    return trend(mean) > 2 or bool(leap > 3 * late.std() and leap > 0)


def trend(values: Float[np.ndarray, " n"]) -> float:
    """By how many standard errors the last third differs from the first."""
    third = len(values) // 3
    if third < 2:
        return 0.0
    first, last = values[:third], values[-third:]
    error = np.sqrt((first.var(ddof=1) + last.var(ddof=1)) / third)
    return float((last.mean() - first.mean()) / max(error, 1e-12))
