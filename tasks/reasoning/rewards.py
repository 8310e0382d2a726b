"""Rewards by name: own verifiers of numbers and short answers, others', and users'."""

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

from tasks.reasoning import answers
from tasks.reasoning.borrowed import MathVerify, ReasoningGym
from tasks.reasoning.countdown import Countdown
from tasks.reasoning.verifier import Function, Verifier


@dataclasses.dataclass(frozen=True)
class GSM8K(Verifier):
    r"""Pays for the right final number.

    It is looked for in what follows the last `####` on its line; else in the last
    `\boxed{}`; else in the last `<answer>` tag; else in the whole text. The last number
    there counts, and no other.

    Attributes:
        after: where the answer begins, such as `</think>`: what does not contain it
            has no answer. Empty: anywhere.
        solved: what the right number gets.
        form: what another number gets.
        floor: what has no number gets.
    """

    after: str = ""
    solved: float = 1.0
    form: float = 0.0
    floor: float = 0.0

    columns = ("answer",)

    def score(self, completion: str, *, answer: Any) -> float:
        text = answers.after(completion, self.after) if self.after else completion
        found = None if text is None else self._number(text)
        if found is None:
            return self.floor
        return self.solved if found == gold_number(answer) else self.form

    def _number(self, text: str) -> Fraction | None:
        marked = answers.after(text, "####")
        if marked is not None:
            return answers.final_number(marked.strip().partition("\n")[0])
        for find in (answers.boxed, answers.tagged):
            if (inside := find(text)) is not None:
                return answers.final_number(inside)
        return answers.final_number(text)

    def reference(self, *, answer: Any, **columns: object) -> str:
        return f"{self.after}{columns.get('solution') or f'#### {answer}'}"


def gold_number(answer: Any) -> Fraction | None:
    """The number that a reference answer means, `#### ` before it or not."""
    text = str(answer)
    found = answers.after(text, "####")
    return answers.whole_number(text if found is None else found)


@dataclasses.dataclass(frozen=True)
class Exact(Verifier):
    r"""Pays for the right short answer, and nothing beside it.

    Numbers are compared by value, and words without case, outer punctuation and double
    spaces. A reference that is empty never pays; one of several is enough.

    Attributes:
        take: where the answer stands: "all", the whole completion is it; "tag", in the
            last `<answer>`; "boxed", in the last `\boxed{}`; "line", the first line;
            "number", the last number of the completion.
        after: where the answer begins, such as `</think>`: what does not contain it
            has no answer. Empty: anywhere.
        solved: what the right answer gets.
        form: what a wrong number gets where a number is wanted.
        floor: what all else gets.
    """

    take: Literal["all", "tag", "boxed", "line", "number"] = "all"
    after: str = ""
    solved: float = 1.0
    form: float = 0.0
    floor: float = 0.0

    columns = ("answer",)

    def __post_init__(self):
        if self.take not in _TAKEN:
            known = ", ".join(_TAKEN)
            raise ValueError(f"take must be one of {known}, got {self.take!r}")

    def score(self, completion: str, *, answer: Any) -> float:
        text = answers.after(completion, self.after) if self.after else completion
        if text is None:
            return self.floor
        is_list = isinstance(answer, Sequence) and not isinstance(answer, str)
        golds = [str(one) for one in (answer if is_list else [answer])]
        numbers = {answers.whole_number(gold) for gold in golds} - {None}
        found = _TAKEN[self.take][0](text)
        value = answers.final_number(text) if self.take == "number" else None
        if found is not None and value is None:
            value = answers.whole_number(found)
            words = {answers.normalised(gold) for gold in golds} - {""}
            if answers.normalised(found[: 4 * answers.TAIL]) in words:
                return self.solved
        if value is None or not numbers:
            return self.floor
        return self.solved if value in numbers else self.form

    def reference(self, *, answer: Any, **columns: object) -> str:
        is_list = isinstance(answer, Sequence) and not isinstance(answer, str)
        return self.after + _TAKEN[self.take][1].format(
            answer[0] if is_list else answer
        )


# Where an answer stands, and how it is put there.
_TAKEN: Mapping[str, tuple[Callable[[str], str | None], str]] = {
    "all": (lambda text: text, "{}"),
    "tag": (answers.tagged, "<answer>{}</answer>"),
    "boxed": (answers.boxed, "\\boxed{{{}}}"),
    "line": (lambda text: text.strip().partition("\n")[0], "{}"),
    "number": (lambda text: None, "{}"),
}
OWN: Mapping[str, Callable[..., Verifier]] = {
    "countdown": Countdown,
    "exact": Exact,
    "gsm8k": GSM8K,
    "math_verify": MathVerify,
    "reasoning_gym": ReasoningGym,
}


def find(name: str, options: Mapping[str, Any] | None = None) -> Verifier:
    """The reward of a name.

    Args:
        name: one of `OWN`, or `module:function`, a reward as TRL has it or a function
            of one completion; see `Function`. Instances and classes of `Verifier`
            are found there, too.
        options: keyword arguments; of a function, those that are the same at each call.

    Raises:
        ValueError: there is no such reward, or it has no such options.
    """
    options = dict(options or {})
    module, colon, attribute = name.partition(":")
    if not colon and name not in OWN:
        known = ", ".join(OWN)
        raise ValueError(
            f"there is no reward {name!r}: expected one of {known}, or "
            "'module:function' for one of yours"
        )
    found = OWN[name] if not colon else _imported(module, attribute)
    try:
        if isinstance(found, type):
            if not issubclass(found, Verifier):
                raise ValueError(f"it is no class of Verifier: {found!r}")
            return found(**options)
        if isinstance(found, Verifier):
            return dataclasses.replace(found, **options) if options else found  # pyrefly: ignore[bad-specialization]
        if not callable(found):
            raise ValueError(f"it is no function: {found!r}")
        inspect.signature(found).bind_partial(**options)
        return Function(functools.partial(found, **options) if options else found)
    except (TypeError, ValueError) as error:
        raise ValueError(f"reward {name!r} with options {options}: {error}") from error


def _imported(module: str, attribute: str) -> Any:
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"reward '{module}:{attribute}': {module} cannot be imported: {error}"
        ) from error
    if not hasattr(found, attribute):
        raise ValueError(
            f"reward '{module}:{attribute}': {module} has nothing of this name"
        )
    return getattr(found, attribute)
