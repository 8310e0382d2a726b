"""Completions that have hurt verifiers, and verifiers to try them on."""

from collections.abc import Iterator
from random import Random

from tasks.reasoning import rewards


PIECES = [
    "<answer>", "</answer>", "\\boxed{", "}", "####", "63**95**96", "9^9^9^9", "1e999",
    "__import__('os').system('false')", "eval('1')", "nan", "inf", "(" * 50, ")" * 50,
    "-" * 50, "1,235",
    ",", ".", "/", "0/0", "1/0", "\x00", "\ud800", "\u202e", "٣", "²",
    "￼", "\\frac{", "{}", "%s%n", "${x}", "'; drop", "True", "lambda: 0", "\n" * 50,
    "=", "**", "//", "½", "∞", "10" * 50,
]  # fmt: skip


def adversarial(count: int) -> Iterator[str]:
    """Strings of pieces that have hurt verifiers, some of them long."""
    random = Random(7)
    for number in range(count):
        pieces = random.choices(PIECES, k=random.randint(1, 12))
        text = "".join(pieces) * (2000 if number % 50 == 0 else 1)
        yield text if number % 3 else f"<answer>{text}</answer>"


OWN = [
    ("countdown", {}, {"numbers": [1, 2, 3], "target": 6}),
    ("gsm8k", {}, {"answer": "#### 1,234"}),
    ("gsm8k", {"after": "</think>"}, {"answer": "18"}),
    *(("exact", {"take": take}, {"answer": "Paris"}) for take in rewards._TAKEN),
]
