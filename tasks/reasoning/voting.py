"""Several answers to one problem, and which of them a majority gives."""

from collections.abc import Sequence
from typing import Any

from tasks.reasoning import answers


def answer_of(completion: str, verifier: Any = None) -> str:
    r"""What a completion answers, such that equal answers are equal strings.

    What the verifier's own `answer_of(completion)` says, if it has that method. Else
    what follows the last `####` on its line, or stands in the last `\boxed{}` or
    `<answer>`, or the whole text; numbers by value, words without case, outer
    punctuation and double spaces. Empty: no answer.
    """
    offered = getattr(verifier, "answer_of", None)
    if offered is not None:
        return str(offered(completion) or "")
    marked = answers.after(completion, "####")
    found = None if marked is None else marked.strip().partition("\n")[0]
    for find in (answers.boxed, answers.tagged):
        found = find(completion) if found is None else found
    found = completion if found is None else found
    number = answers.whole_number(found)
    return answers.normalised(found) if number is None else str(number)


def elected(votes: Sequence[Sequence[str]]) -> list[int]:
    """Which voter speaks for the majority on each problem.

    Args:
        votes: of each voter the answer to each problem, the best voter first.

    Returns:
        Of each problem, the first voter of those who gave the answer that most gave. Of
        answers given equally often it is that of the better voter; no answer, an empty
        one, loses against any.
    """
    chosen = []
    for given in zip(*votes, strict=True):
        counts = {answer: given.count(answer) for answer in given if answer}
        winner = max(counts, key=lambda x: counts[x]) if counts else ""
        chosen.append(given.index(winner))
    return chosen
