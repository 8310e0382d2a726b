"""Finds the answer in a completion, in time linear in its length; evaluates nothing."""

import re
import unicodedata
from fractions import Fraction


LONGEST_NUMBER = 50  # characters; what is longer is no answer to a question of ours
TAIL = 4096  # characters in which the final number of a text is looked for

# A sign belongs to a number unless something stands before it, as in 10-5. Of the
# possessive `++` there is no backtracking: 12e5 holds no number 1, and no 12.
_NUMBER = re.compile(
    r"(?<![\w^])(?P<sign>(?<![)\]])[-+])?[$€£]?(?<![\w^])"
    r"(?P<number>(?:\d{1,3}(?:,\d{3})++(?!\d)|\d++)(?:\.\d++)?+|\.\d++)"
    r"(?:/(?P<below>\d++)(?![.\d]))?+(?![eE][-+]?\d|\^|\*\*\d)",
    re.ASCII,
)
_LIKE_ASCII = str.maketrans({"−": "-", "–": "-", "×": "*", "·": "*", "÷": "/"})
_AROUND = " \t\r\n.,;:!?\"'`*_$"


def tagged(text: str, tag: str = "answer") -> str | None:
    """What the last `<tag> ... </tag>` holds; None where there is none."""
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, max(end, 0))
    return None if start < 0 else text[start + len(tag) + 2 : end].strip()


def boxed(text: str) -> str | None:
    r"""What the last `\boxed{ ... }` holds, braces balanced; None where there is none.

    The last one counts even where it is not closed: then there is no answer.
    """
    mark = r"\boxed{"
    start = text.rfind(mark)
    if start < 0:
        return None
    depth, start = 1, start + len(mark)
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start:place].strip()
    return None


def after(text: str, mark: str) -> str | None:
    """What follows the last `mark`; None where there is none, all if it is empty."""
    found = text.rfind(mark)
    return None if found < 0 or not mark else text[found + len(mark) :]


def final_number(text: str) -> Fraction | None:
    """The last number of a text; None where its last 4096 characters hold none.

    Commas may part thousands (`1,234`) or a list (`3,4`); a quotient of integers is
    one number; digits that belong to a word, a power or a number such as `1e5` are
    none.
    """
    last = None
    for match in _NUMBER.finditer(text[-TAIL:].translate(_LIKE_ASCII)):
        last = match
    return None if last is None else _value(last)


def whole_number(text: str) -> Fraction | None:
    """The number that a text consists of, but for punctuation; None if there is more.

    `$1,234.00`, `-5` and `18%` are numbers.
    """
    text = text[: 2 * TAIL].strip(_AROUND.replace("$", "").replace(".", ""))
    text = text.rstrip(".%").translate(_LIKE_ASCII)
    match = _NUMBER.fullmatch(text) if len(text) <= 2 * LONGEST_NUMBER else None
    return None if match is None else _value(match)


def normalised(text: str) -> str:
    """Words alone: one case, one form of each letter, no punctuation around them."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(text.split()).strip(_AROUND)


def _value(match: re.Match) -> Fraction | None:
    number, below = match["number"].replace(",", ""), match["below"] or "1"
    if max(len(number), len(below)) > LONGEST_NUMBER or not int(below):
        return None
    if number.startswith("."):
        number = f"0{number}"
    value = Fraction(number) / int(below)
    return -value if match["sign"] == "-" else value
