"""What a reward is; the functions of users, and how they are called."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar


class Verifier:
    """Scores completions one by one; as a whole, a reward as TRL has it.

    Attributes:
        columns: of a row, that it reads.
        solved: The score from which on a problem counts as solved.
        floor: The lowest score there is, which is what a completion gets that could
            not be scored; None: what the worst of its group got.
    """

    columns: ClassVar[tuple[str, ...]] = ()
    solved: float = 1.0
    floor: float | None = 0.0

    def score(self, completion: str, **columns: Any) -> float:
        """The score of one completion; raises nothing, whatever it is."""
        raise NotImplementedError

    def reference(self, **columns: Any) -> str | None:
        """A completion that solves the problem, if one is known."""
        del columns
        return None

    def prepare(self) -> None:
        """Loads what scoring needs, so that the first completion does not wait."""

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[str], **columns: Any
    ) -> list[float]:
        """The score of each completion; `columns` holds a list for each name."""
        del prompts
        needed = {name: columns[name] for name in self.columns}
        return [
            self.score(text, **{name: column[i] for name, column in needed.items()})
            for i, text in enumerate(completions)
        ]


@dataclasses.dataclass(frozen=True)
class Function(Verifier):
    """A function of the user's, called with those columns that it knows.

    Attributes:
        function: `(prompts, completions, **columns) -> list[float]`, as TRL has it, or
            `(completion, **columns) -> float`; which of them, its names tell.
    """

    function: Callable[..., Any]
    floor = None

    def __post_init__(self):
        names = self._names
        if "completions" not in names and "completion" not in names:
            raise ValueError(
                f"the reward {self.name} must take `prompts, completions, **columns` "
                f"and return a list, or `completion, **columns` and return a float; "
                f"got ({', '.join(names)})"
            )

    @property
    def name(self) -> str:
        """Of the function."""
        plain = self.function
        while isinstance(plain, functools.partial):
            plain = plain.func
        return getattr(plain, "__qualname__", type(plain).__qualname__)

    @property
    def columns(
        self,
    ) -> tuple[str, ...]:
        """The columns without which it cannot be called."""
        given = {"prompts", "completions", "completion", "prompt"}
        plain = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        return tuple(
            name
            for name, found in self._names.items()
            if name not in given and found.default is found.empty
            if found.kind not in plain
        )

    @property  # not cached: a signature cannot be sent to a worker
    def _names(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.function).parameters

    def _known(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        takes_all = any(one.kind is one.VAR_KEYWORD for one in self._names.values())
        return {k: v for k, v in columns.items() if takes_all or k in self._names}

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[str], **columns: Any
    ) -> Any:
        if "completions" in self._names:
            given = {"prompts": prompts, "completions": completions, **columns}
            return self.function(**self._known(given))
        rows = []
        for i, text in enumerate(completions):
            row = {name: column[i] for name, column in columns.items()}
            given = {"prompt": prompts[i], "completion": text, **row}
            rows.append(self.function(**self._known(given)))
        return rows


def per_item(function: Callable[..., float]) -> Function:
    """Makes a reward as TRL has it of `(completion, **columns) -> float`."""
    found = Function(function)
    if "completion" not in inspect.signature(function).parameters:
        raise ValueError(f"{found.name} must take `completion`, a string")
    return found
