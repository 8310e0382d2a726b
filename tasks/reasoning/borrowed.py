"""Verifiers of other libraries, kept from what they do wrong.

They belong into worker processes (`tasks.reasoning.guard`): neither bounds its time.
"""

import dataclasses
import importlib
import importlib.util
import logging
from typing import Any, Literal

from tasks.reasoning import answers
from tasks.reasoning.verifier import Verifier


# Of reasoning-gym 0.1.25, those that evaluate the completion, by `eval` or by sympy's
# `parse_expr`, which is `eval`, too.
EVALUATING = frozenset(
    {
        "binary_matrix",
        "countdown",
        "intermediate_integration",
        "n_queens",
        "polynomial_multiplication",
        "puzzle24",
        "simple_integration",
        "spiral_matrix",
        "string_insertion",
    }
)


def installed(package: str, distribution: str) -> None:
    """Refuses where a package is not installed.

    Raises:
        ValueError: saying how to get it.
    """
    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"{distribution} is not installed: pip install "
            f"'eggroll-jax[{distribution}]'"
        )


@dataclasses.dataclass(frozen=True)
class MathVerify(Verifier):
    r"""Pays for an expression that equals the reference, as math-verify sees it.

    One candidate is looked at, where the library would take any of several; it is read
    as LaTeX alone, since what the library makes of plain expressions is evaluated.

    Attributes:
        take: where it stands: "boxed", in the last `\boxed{}`, or "tag", in the last
            `<answer>`.
        longest: characters; what is longer is no answer.
        solved: what an equal expression gets.
        floor: what all else gets.
    """

    take: Literal["boxed", "tag"] = "boxed"
    longest: int = 1000
    solved: float = 1.0
    floor: float = 0.0

    columns = ("answer",)

    def __post_init__(self):
        installed("math_verify", "math-verify")

    def prepare(self) -> None:
        self._parsed("1")

    def score(self, completion: str, *, answer: Any) -> float:
        find = answers.boxed if self.take == "boxed" else answers.tagged
        text = find(completion)
        if not text or len(text) > self.longest:
            return self.floor
        gold = self._parsed(str(answer))
        if not gold:
            raise ValueError(f"math-verify cannot parse the reference {answer!r}")
        found = self._parsed(text)
        verify = importlib.import_module("math_verify").verify
        # Its own limits are alarms, which fail in threads: the guard has better ones.
        equal = bool(found) and verify(gold, found[:1], timeout_seconds=None)
        return self.solved if equal else self.floor

    def _parsed(self, text: str) -> list:
        library = importlib.import_module("math_verify")
        logging.getLogger("math_verify").setLevel(logging.ERROR)
        text = text.strip().strip("$")
        return library.parse(
            f"\\boxed{{{text}}}",
            extraction_config=[library.LatexExtractionConfig()],
            fallback_mode="no_fallback",
            parsing_timeout=None,
        )

    def reference(self, *, answer: Any, **columns: object) -> str:
        shape = "\\boxed{{{}}}" if self.take == "boxed" else "<answer>{}</answer>"
        return shape.format(str(answer).strip().strip("$"))


@dataclasses.dataclass(frozen=True)
class ReasoningGym(Verifier):
    """What reasoning-gym's own verifier says of the last `<answer>`.

    Attributes:
        dataset: its name there. Nine are refused: they evaluate what they are given.
        take: where the answer stands: "tag", in the last `<answer>`, or "all".
        longest: characters; what is longer is no answer.
    """

    dataset: str
    take: Literal["tag", "all"] = "tag"
    longest: int = 10_000

    columns = ("answer", "metadata", "question")

    def __post_init__(self):
        if self.dataset in EVALUATING:
            own = " Own items and an exact verifier: dataset 'countdown'."
            raise ValueError(
                f"reasoning-gym's verifier of {self.dataset!r} evaluates the "
                "completion, so that a model could run code: choose another dataset, "
                "or score its items with a reward of yours."
                + own
                * (self.dataset == "countdown")
            )
        installed("reasoning_gym", "reasoning-gym")

    def prepare(self) -> None:
        self._scorer()

    def score(
        self, completion: str, *, answer: str, metadata: dict, question: str
    ) -> float:
        text = answers.tagged(completion) if self.take == "tag" else completion
        if text is None or len(text) > self.longest:
            return self.floor or 0.0
        entry = {"answer": answer, "metadata": metadata, "question": question}
        return float(self._scorer().score_answer(text, entry))

    def _scorer(self) -> Any:
        if self.dataset not in _SCORERS:
            make = importlib.import_module("reasoning_gym").create_dataset
            _SCORERS[self.dataset] = make(self.dataset, size=1, seed=0)
        return _SCORERS[self.dataset]

    def reference(self, *, answer: str | None = None, **columns: object) -> str | None:
        if answer is None:
            return None
        return f"<answer>{answer}</answer>" if self.take == "tag" else answer


_SCORERS: dict[str, Any] = {}
