"""Problems that are made, not collected: Countdown and sums; and those of a library.

Each is a function of an index alone, so that a run can begin anywhere in the stream.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from random import Random
from typing import Any

from eggroll import UserError
from tasks.reasoning.borrowed import installed


Columns = dict[str, Any]
COUNTDOWN = (
    "Using the numbers {numbers}, write an expression that equals {target}. You may "
    "use +, -, *, / and parentheses, and must use each number exactly once. Give the "
    "expression in <answer> tags, such as <answer>(1 + 2) * 3</answer>."
)
SUM = "Compute {a} {sign} {b}. Reply with only the answer."
BETWEEN = 10_000  # draws of numbers until a target fits


@dataclasses.dataclass(frozen=True)
class CountdownProblems:
    """Numbers and a target that they reach, each used once, by + - * /.

    Columns are `numbers`, `target` and a `solution`.

    Attributes:
        counts: how many numbers there may be, each as often.
        low: the least number.
        high: the largest.
        target_high: the largest target; the least is 1.
    """

    counts: Sequence[int] = (3, 4)
    low: int = 1
    high: int = 100
    target_high: int = 1000

    template = COUNTDOWN
    reward = "countdown"

    def __post_init__(self):
        if not self.counts or min(self.counts) < 1 or max(self.counts) > 10:
            raise UserError(f"counts must be numbers from 1 to 10, got {self.counts}")
        if not 0 <= self.low <= self.high:
            raise UserError(
                f"low and high must be in order and not negative, got {self.low} and "
                f"{self.high}"
            )
        if self.target_high < 1:
            raise UserError(f"target_high must be at least 1, got {self.target_high}")

    def draw(self, random: Random) -> tuple[Columns, Any]:
        """The columns of one item, and its content."""
        for _ in range(BETWEEN):
            count = random.choice(self.counts)
            numbers = [random.randint(self.low, self.high) for _ in range(count)]
            value, solution = _combined(numbers, random)
            whole = value is not None and value.denominator == 1
            if value is not None and whole and 1 <= value <= self.target_high:
                columns = {"numbers": numbers, "target": int(value)}
                content = (tuple(sorted(numbers)), int(value))
                return columns | {"solution": solution}, content
        raise UserError(
            f"countdown: {BETWEEN} draws of numbers from {self.low} to {self.high} "
            f"reached no target from 1 to {self.target_high}: choose other ranges"
        )


def _combined(numbers: Sequence[int], random: Random) -> tuple[Fraction | None, str]:
    """What comes of joining numbers, two at a time, and how; None: divided by zero."""
    parts = [(Fraction(number), str(number)) for number in numbers]
    while len(parts) > 1:
        (a, left), (b, right) = (
            parts.pop(random.randrange(len(parts))) for _ in range(2)
        )
        sign = random.choice("+-*/")
        if sign == "/" and not b:
            return None, ""
        value = {"+": a + b, "-": a - b, "*": a * b}.get(sign)
        value = a / b if value is None else value
        parts.append((value, f"({left} {sign} {right})"))
    value, text = parts[0]
    return value, text[1:-1] if text.startswith("(") else text


@dataclasses.dataclass(frozen=True)
class Sums:
    """Two numbers to add, or to subtract or multiply.

    Columns are `a`, `sign`, `b` and the `answer`.

    Attributes:
        low: the least number.
        high: the largest.
        signs: of which each item has one.
    """

    low: int = 0
    high: int = 99
    signs: Sequence[str] = ("+",)

    template = SUM
    reward = "exact"

    def __post_init__(self):
        if self.low > self.high:
            raise UserError(f"low is above high: {self.low} and {self.high}")
        if not self.signs or not {*self.signs} <= {*"+-*"}:
            raise UserError(f"signs must be some of + - *, got {self.signs}")

    def draw(self, random: Random) -> tuple[Columns, Any]:
        """The columns of one item, and its content: a + b is b + a."""
        a, b = (random.randint(self.low, self.high) for _ in range(2))
        sign = random.choice(self.signs)
        answer = {"+": a + b, "-": a - b, "*": a * b}[sign]
        order = (a, b) if sign == "-" else (min(a, b), max(a, b))
        columns = {"a": a, "sign": sign, "b": b, "answer": str(answer)}
        return columns, (*order, sign)


PROBLEMS: Mapping[str, Callable[..., Any]] = {
    "addition": Sums,
    "countdown": CountdownProblems,
}


def of_reasoning_gym(name: str, seed: int, options: Mapping[str, Any]) -> Any:
    """The columns of an index of a dataset of reasoning-gym.

    Its items are those of seed + index, so that datasets of near seeds are the same
    but for a shift: of one seed, ranges of indices are different items.

    Raises:
        UserError: it is not installed, or has no such dataset or options.
    """
    try:
        installed("reasoning_gym", "reasoning-gym")
        make = importlib.import_module("reasoning_gym").create_dataset
        made = make(name, size=2**31 - 1, seed=seed, **options)
    except Exception as error:  # assertions, too
        raise UserError(f"dataset 'reasoning_gym:{name}': {error}") from error

    def draw(index: int) -> Columns:
        entry = made[index]
        return {key: entry[key] for key in ("question", "answer", "metadata")}

    return draw
