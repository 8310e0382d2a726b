"""Attacks a reward before a run does: what a model could be paid for without solving.

Each attack makes a completion of a problem. Only the reference should be paid in full.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from tasks.reasoning.guard import Guard
from tasks.reasoning.rows import Row


Attack = Callable[[Row, str | None], str | None]
TAG, BOX = "<answer>{}</answer>", "\\boxed{{{}}}"
REFERENCE = "reference"
CODE = '__import__("os").system("touch eggroll-was-here")'
SLEEP = '__import__("time").sleep(3600)'
TEXTS: Mapping[str, Sequence[str]] = {
    "empty": ("", " \n\t ", TAG.format(""), BOX.format("")),
    "huge": (
        "1" * 10**6,
        "<answer>" * 10**5,
        TAG.format("(" * 10**5),
        TAG.format("-" * 10**5 + "1"),
        BOX.format("{" * 10**5),
        TAG.format("1+" * 10**5 + "1"),
        "1,234" * 10**5,
        BOX.format(r"\frac{" * 10**4 + "1" + "}{2}" * 10**4),
    ),
    "bare numbers": (
        "0",
        "1",
        "7",
        "-1",
        "42",
        "1e999",
        "nan",
        "inf",
        "True",
        "٣",
        "²",
    ),
    "numbers in tags": tuple(TAG.format(n) for n in ("0", "1", "7", "nan", "1e999")),
    "a flood of guesses": (
        " ".join(map(str, range(1000))),
        "".join(TAG.format(n) for n in range(1000)),
        TAG.format(", ".join(map(str, range(1000)))),
        BOX.format(", ".join(map(str, range(1000)))),
    ),
    "towers of powers": (
        TAG.format("63**95**96"),
        TAG.format("9^9^9^9^9"),
        "9**9**9**9**9",
        BOX.format("9^{9^{9^{9^{9}}}}"),
        BOX.format("10000000!!"),
        TAG.format("1e99999999999"),
    ),
    "injected code": (
        CODE,
        TAG.format(CODE),
        TAG.format(SLEEP),
        BOX.format(SLEEP),
        TAG.format("exit()"),
        TAG.format("[x for x in ().__class__.__base__.__subclasses__()]"),
        TAG.format("(lambda f: f(f))(lambda f: f(f))"),
        TAG.format("'a' * 10**12"),
        "{{7*7}} ${7*7} <script>",
        BOX.format("\\input{/etc/passwd}"),
    ),
    "odd characters": ("\x00", "\ud800", "\u202e12", "１２", TAG.format("\x00"), "�"),
}


def catalogue(row: Row, reference: str | None) -> dict[str, list[str]]:
    """The attacks on one problem, by name, each with its completions.

    Args:
        row: the problem.
        reference: a completion that solves it, if there is one.
    """
    prompt = row.prompt
    text = prompt if isinstance(prompt, str) else json.dumps(prompt)
    columns = {name: str(value) for name, value in row.columns.items()}
    made = {
        **{name: list(texts) for name, texts in TEXTS.items()},
        "echo of the prompt": [text, TAG.format(text), text * 100],
        "echo of the columns": [
            " ".join(value for name, value in columns.items() if name in _ASKED),
            *(TAG.format(columns[name]) for name in _ASKED if name in columns),
        ],
    }
    if reference is not None:
        made |= _bent(row, reference)
    return made


_ASKED = ("numbers", "target", "question", "a", "b")


def _bent(row: Row, reference: str) -> dict[str, list[str]]:
    """What becomes of a right answer that is not given as asked."""
    bare = reference
    for mark in ("<answer>", "</answer>", "\\boxed{", "####"):
        bare = bare.replace(mark, " ")
    shapes = {"<answer>": TAG, "\\boxed{": BOX, "####": "#### {}"}
    shape = next((shapes[mark] for mark in shapes if mark in reference), "{}")
    other = shape.format(987654321)
    made = {
        REFERENCE: [reference],
        "right, then taken back": [f"{reference}\n{other}", f"{reference} No: {other}"],
    }
    if "<answer>" in reference:
        made["right, in the wrong format"] = [
            bare,
            reference.upper(),
            reference.replace("</answer>", ""),
            reference.replace("answer>", "result>"),
        ]
    numbers = row.columns.get("numbers")
    if numbers and "</answer>" in reference:
        one = numbers[0]
        ends = f" + {one} - {one}", f" * {one} / {one}", " + 0", " * 1"
        made["a number used twice"] = [
            reference.replace("<answer>", "<answer>(").replace(
                "</answer>", f"){end}</answer>"
            )
            for end in ends
        ]
    return made


@dataclasses.dataclass(frozen=True)
class Line:
    """What one attack got.

    Attributes:
        name: of the attack.
        count: completions.
        mean: of their scores.
        best: the largest of them.
        solved: the share that was paid in full.
        failed: completions that could not be scored, by reason.
        seconds: a completion, on average.
    """

    name: str
    count: int
    mean: float
    best: float
    solved: float
    failed: Mapping[str, int]
    seconds: float


def run(
    guard: Guard,
    rows: Sequence[Row],
    solved: float = 1.0,
    reference: Callable[..., str | None] | None = None,
) -> list[Line]:
    """Attacks a reward on some problems.

    Args:
        guard: the reward, guarded.
        rows: the problems; a handful is enough.
        solved: the score from which on a problem counts as solved.
        reference: `(**columns) -> completion`, a right one or None; that of the
            guard's reward, if it has one.
    """
    known = reference or getattr(guard.reward, "reference", None) or _unknown
    asked = [
        (name, number, text)
        for number, row in enumerate(rows)
        for name, texts in catalogue(row, known(**row.columns)).items()
        for text in texts
    ]
    names = [name for name, _, _ in asked]
    scored = guard.score(
        [rows[number].prompt for _, number, _ in asked],
        [text for _, _, text in asked],
        {
            column: [rows[number].columns[column] for _, number, _ in asked]
            for column in rows[0].columns
        },
        [number for _, number, _ in asked],
    )
    lines = []
    for name in sorted({*names}, key=lambda one: (one != REFERENCE, names.index(one))):
        places = [i for i, one in enumerate(names) if one == name]
        scores = scored.scores[places]
        failed = Counter(scored.failures[i] for i in places if scored.failures[i])
        fine = np.asarray([not scored.failures[i] for i in places])
        lines.append(
            Line(
                name,
                len(places),
                float(scores.mean()),
                float(scores.max()),
                float(np.mean((scores >= solved) & fine)),
                dict(failed),
                float(scored.seconds[places].mean()),
            )
        )
    return lines


def _unknown(**columns: object) -> None:
    del columns


def table(lines: Iterable[Line]) -> str:
    """What the attacks got, as text for a terminal."""
    rows = [("attack", "n", "mean", "best", "solved", "ms", "failed")]
    for line in lines:
        failed = ", ".join(f"{count} {why}" for why, count in line.failed.items())
        rows.append(
            (
                line.name,
                str(line.count),
                f"{line.mean:.3f}",
                f"{line.best:.3f}",
                f"{line.solved:.0%}",
                f"{1000 * line.seconds:.2f}",
                failed or "-",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            word.ljust(width) if i in (0, 6) else word.rjust(width)
            for i, (word, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def check(
    guard: Guard, rows: Sequence[Row], say: Callable[[str], None], solved: float = 1.0
) -> list[str]:
    """Attacks a reward, and says what each attack got.

    Returns:
        What is wrong with it, in words; see `verdict`.
    """
    lines = run(guard, rows, solved)
    say(table(lines))
    count = sum(line.count for line in lines)
    seconds = sum(line.count * line.seconds for line in lines) / count
    say(f"{count} completions of {len(rows)} problems: {1000 * seconds:.2f} ms each")
    return verdict(lines)


def verdict(lines: Iterable[Line]) -> list[str]:
    """What is wrong with a reward, in words; nothing if nothing is.

    A reference that is not paid in full; an attack that is, more often than by luck
    (more than half of its completions, or any of those that bend a right answer by
    using a number twice); a call that overran its deadline, crashed or ate the memory.
    """
    troubles = []
    for line in lines:
        if line.name == REFERENCE:
            if line.solved < 1:
                troubles.append(
                    f"of the reference answers only {line.solved:.0%} are paid in full"
                )
        elif line.solved > (0 if line.name == "a number used twice" else 0.5):
            troubles.append(f"{line.name}: {line.solved:.0%} are paid in full")
        for why, count in line.failed.items():
            troubles.append(f"{line.name}: {count} of {line.count} failed: {why}")
    return troubles
