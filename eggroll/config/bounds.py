"""Ranges of settings, declared with their types: `Annotated[int, Bounds(least=1)]`.

Settings from files and command lines are checked while they are read, by dotted name; a
dataclass that is made in Python checks itself by `check_bounds`.
"""

import dataclasses
import functools
import operator
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from eggroll.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """Between what a number is; None for no bound.

    Attributes:
        least: The least one.
        above: All are greater than this.
        most: The greatest one.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        return ", ".join(filter(None, (self._from(), self._to())))

    def broken_by(self, number: float) -> str:
        """Which bound a number breaks, in words; empty, if none."""
        if not (self.least is None or number >= self.least):
            return self._from()
        if not (self.above is None or number > self.above):
            return self._from()
        return "" if self.most is None or number <= self.most else self._to()

    def _from(self) -> str:
        if self.above is not None:
            return f"above {_worded(self.above)}"
        return "" if self.least is None else f"at least {_worded(self.least)}"

    def _to(self) -> str:
        return "" if self.most is None else f"at most {_worded(self.most)}"

    def check(self, value: Any, where: str) -> None:
        """Refuses numbers outside, in a list or a schedule, too.

        Args:
            value: A number, None, or what holds numbers.
            where: The setting's name, for the message.

        Raises:
            UserError: One of them is not within.
        """
        for number in _numbers(value):
            if broken := self.broken_by(number):
                raise UserError(f"{where}: expected {broken}, got {number}")


# Of the devices' whole numbers: 32 bits.
INT32_MAX = 2**31 - 1
Count = Annotated[int, Bounds(least=1, most=INT32_MAX)]
Natural = Annotated[int, Bounds(least=0, most=INT32_MAX)]
Share = Annotated[float, Bounds(least=0, most=1)]
Positive = Annotated[float, Bounds(above=0)]
NonNegative = Annotated[float, Bounds(least=0)]


def bounds_of(annotation: Any) -> Bounds | None:
    """The range that an annotation, or an alternative of it, declares, if any does."""
    beside = getattr(annotation, "__metadata__", ())
    own = next((one for one in beside if isinstance(one, Bounds)), None)
    alternatives = typing.get_args(annotation) if _is_union(annotation) else ()
    return own or next(filter(None, map(bounds_of, alternatives)), None)


def bare(annotation: Any) -> Any:
    """An annotation without what is declared beside the type."""
    if typing.get_origin(annotation) is Annotated:
        return bare(typing.get_args(annotation)[0])
    if _is_union(annotation):
        return functools.reduce(operator.or_, map(bare, typing.get_args(annotation)))
    return annotation


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def check_bounds(settings: Any, where: str = "") -> None:
    """Refuses a dataclass of which a field is outside of its declared range.

    Args:
        settings: The dataclass.
        where: The dotted name of the settings, if there is one.

    Raises:
        UserError: A field is outside.
    """
    hints = typing.get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        if bounds := bounds_of(hints.get(field.name)):
            name = f"{where}.{field.name}" if where else field.name
            bounds.check(getattr(settings, field.name), name)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _numbers(one)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for one in value:
            yield from _numbers(one)
    elif numbers := getattr(value, "numbers", None):  # of a schedule
        yield from _numbers(numbers())


def _worded(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"
