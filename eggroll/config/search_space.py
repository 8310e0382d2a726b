"""What a sweep searches: by setting, a list of choices or a range of numbers."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np

from eggroll.config import coercion
from eggroll.config.bounds import bare
from eggroll.errors import UserError, brief


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers between two bounds, both included.

    Attributes:
        low: The least one.
        high: The greatest one.
        kind: On what scale all are equally likely. A setting that takes whole numbers
            only is given whole numbers only.
    """

    low: int | float
    high: int | float
    kind: Literal["linear", "log"] = "linear"

    def __post_init__(self):
        if not (self.low < self.high and math.isfinite(self.high - self.low)):
            raise UserError(
                f"expected a range from `low` to a greater `high`, got {self.low} "
                f"to {self.high}"
            )
        if self.kind == "log" and self.low <= 0:
            raise UserError(
                f"a range of kind 'log' needs `low` above 0, got {self.low}"
            )

    @classmethod
    def parse(cls, value: Mapping[str, Any], setting: Any, where: str) -> Self:
        """Reads the range of a setting of the type `setting`."""
        try:
            found = coercion.from_mapping(cls, value)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        bounds = {"low": found.low, "high": found.high}
        for name, bound in bounds.items():
            coercion.coerce(bound, setting, f"{where}.{name}")
        kind = int if _is_whole(setting) else float
        whole = {name: kind(bound) for name, bound in bounds.items()}
        return dataclasses.replace(found, **whole)

    def draw(self, generator: np.random.Generator) -> int | float:
        """One number: a whole one, or one of four significant digits."""
        is_whole = isinstance(self.low, int)
        # A whole number stands for all up to the next, so that all are as likely.
        low, high = self.low, self.high + is_whole
        if self.kind == "log":
            value = math.exp(generator.uniform(math.log(low), math.log(high)))
        else:
            value = generator.uniform(low, high)
        value = int(value) if is_whole else float(f"{value:.4g}")
        return min(max(value, self.low), self.high)

    def plain(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


Space = Mapping[str, tuple[Any, ...] | Range]


def parse(value: Any, setting: Any, where: str) -> tuple[Any, ...] | Range:
    """Reads what one setting may be.

    Args:
        value: A list of choices, or a mapping of the fields of `Range`.
        setting: The type of the setting, which each choice must fit.
        where: The name to blame in messages.

    Raises:
        UserError: It is neither, or does not fit the setting.
    """
    if isinstance(value, Mapping):
        return Range.parse(value, setting, where)
    if not isinstance(value, list) or not value:
        raise UserError(
            f"{where}: expected a list of choices or {{low: , high: , kind: linear or "
            f"log}}, got {brief(value)}"
        )
    for i, choice in enumerate(value):
        coercion.coerce(choice, setting, f"{where}[{i}]")
    return tuple(value)


def draw(space: Space, seed: int, trial: int) -> dict[str, Any]:
    """The settings of one trial, whatever trials there are besides.

    Args:
        space: What to draw from.
        seed: Of the sweep.
        trial: The number of the trial, from 0.
    """
    generator = np.random.default_rng((seed % 2**32, trial))
    return {
        name: one.draw(generator)
        if isinstance(one, Range)
        else one[generator.integers(len(one))]
        for name, one in space.items()
    }


def plain(space: Space) -> dict[str, Any]:
    """The plain data that reads back as `space`."""
    return {
        name: one.plain() if isinstance(one, Range) else list(one)
        for name, one in space.items()
    }


def _is_whole(setting: Any) -> bool:
    """Whether a setting of this type takes no fractions."""
    try:
        coercion.coerce(0.5, bare(setting), "")
    except UserError:
        return True
    return False
