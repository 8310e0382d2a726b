"""Countdown: reach a number from some numbers by + - * /; exactly verified."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

from tasks.reasoning.answers import tagged
from tasks.reasoning.verifier import Verifier


LONGEST, DEEPEST, DIGITS = 1000, 40, 20
_TOKEN = re.compile(r"\s*(\d+|[-+*/()=])", re.ASCII)
_SPELLINGS = str.maketrans({"−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/"})


class Value(NamedTuple):
    """What an expression comes to.

    Attributes:
        value: exactly; None where it divides by zero.
        numbers: that stand in it, in their order.
    """

    value: Fraction | None
    numbers: list[int]


def evaluate(text: str) -> Value | None:
    """The value of an expression of integers, + - * /, signs and parentheses.

    An equation is as good as its left side, if its right side has the same value;
    otherwise its value is None. Time and memory are linear in the length of the text;
    nothing is evaluated but by this arithmetic.

    Returns:
        None where the text is no such expression, or is longer than 1000 characters,
        deeper than 40 parentheses, or holds a number of more than 20 digits.
    """
    if len(text) > LONGEST:
        return None
    try:
        return _Parser(text.translate(_SPELLINGS)).equation()
    except _Malformed:
        return None


class _Malformed(Exception):
    """The text is no expression."""


class _Parser:
    """Recursive descent; each method reads what it is named for, and returns it."""

    def __init__(self, text: str):
        self.tokens = list(_tokens(text))[::-1]  # the next one is the last
        self.numbers: list[int] = []
        self.depth = 0

    def equation(self) -> Value:
        left, numbers = self.sum(), list(self.numbers)
        if self.next("="):
            left = left if self.sum() == left else None
        if self.tokens:
            raise _Malformed
        return Value(left, numbers)

    def sum(self) -> Fraction | None:
        total = self.product()
        while sign := self.next("+", "-"):
            other = self.product()
            if total is not None and other is not None:
                total = total + other if sign == "+" else total - other
            else:
                total = None
        return total

    def product(self) -> Fraction | None:
        total = self.factor()
        while sign := self.next("*", "/"):
            other = self.factor()
            if total is None or other is None or (sign == "/" and not other):
                total = None
            else:
                total = total * other if sign == "*" else total / other
        return total

    def factor(self) -> Fraction | None:
        negative = False
        while sign := self.next("-", "+"):
            negative ^= sign == "-"
        if self.next("("):
            self.depth += 1
            if self.depth > DEEPEST:
                raise _Malformed
            value = self.sum()
            if not self.next(")"):
                raise _Malformed
            self.depth -= 1
        else:
            value = self.number()
        return -value if negative and value is not None else value

    def number(self) -> Fraction:
        if not self.tokens or not self.tokens[-1].isdigit():
            raise _Malformed
        self.numbers.append(int(self.tokens.pop()))
        return Fraction(self.numbers[-1])

    def next(self, *wanted: str) -> str:
        """The next token, taken, if it is one of these; else nothing."""
        if self.tokens and self.tokens[-1] in wanted:
            return self.tokens.pop()
        return ""


def _tokens(text: str) -> Iterator[str]:
    text, place = text.rstrip(), 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or len(match[1]) > DIGITS:
            raise _Malformed
        yield match[1]
        place = match.end()


@dataclasses.dataclass(frozen=True)
class Countdown(Verifier):
    """Pays for an expression that reaches the target.

    Attributes:
        take: where the expression stands: "tag", in the last `<answer>`; "all", the
            whole completion is it.
        at_most_once: numbers may be left out; otherwise each is used exactly once.
        solved: what a right expression gets.
        form: what another well-formed expression gets.
        floor: what all else gets.
    """

    take: Literal["tag", "all"] = "tag"
    at_most_once: bool = False
    solved: float = 1.0
    form: float = 0.1
    floor: float = 0.0

    columns = ("numbers", "target")

    def __post_init__(self):
        if self.take not in ("tag", "all"):
            raise ValueError(f"take must be tag or all, got {self.take!r}")

    def expression(self, completion: str) -> str | None:
        """What should be an expression; None where there is none."""
        return tagged(completion) if self.take == "tag" else completion

    def answer_of(self, completion: str) -> str:
        """The expression as it is compared with others': without spaces."""
        return "".join((self.expression(completion) or "").split())

    def score(
        self, completion: str, *, numbers: Sequence[int], target: int | str
    ) -> float:
        text = self.expression(completion)
        found = None if text is None else evaluate(text)
        if found is None:
            return self.floor
        right = found.value is not None and found.value == Fraction(str(target))
        return (
            self.solved if right and self._fits(found.numbers, numbers) else self.form
        )

    def _fits(self, used: list[int], given: Sequence[int]) -> bool:
        """Whether the numbers that an expression uses may be used so."""
        if not self.at_most_once:
            return sorted(used) == sorted(int(one) for one in given)
        return Counter(used) <= Counter(int(one) for one in given)

    def reference(
        self, *, solution: str | None = None, **columns: object
    ) -> str | None:
        if solution is None or self.take == "all":
            return solution
        return f"<answer>{solution}</answer>"
