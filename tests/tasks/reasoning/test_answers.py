"""Where an answer stands in a completion."""

import time
from fractions import Fraction

import pytest

from tasks.reasoning.answers import (
    TAIL,
    after,
    boxed,
    final_number,
    normalised,
    tagged,
    whole_number,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<answer>1</answer>", "1"),
        ("<answer> 1 </answer> <answer>2\n</answer>", "2"),
        ("<answer><answer>3</answer>", "3"),
        ("<answer>4</answer> and <answer>5", "4"),
        ("<answer>6", None),
        ("7</answer>", None),
        ("</answer><answer>8", None),
        ("<answer></answer>", ""),
        ("<ANSWER>9</ANSWER>", None),
        ("", None),
    ],
)
def test_the_last_whole_tag_holds_the_answer(text, expected):
    assert tagged(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{1}", "1"),
        (r"\boxed{1} or \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} or \boxed{2", None),
        (r"\boxed{}", ""),
        ("1", None),
    ],
)
def test_the_last_box_holds_the_answer_with_its_braces(text, expected):
    assert boxed(text) == expected


def test_after_the_last_mark():
    assert after("a#b#c", "#") == "c"
    assert after("abc", "#") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("18", 18),
        ("The answer is 18.", 18),
        ("**18**", 18),
        ("$1,234.50 in all", Fraction("1234.5")),
        ("12,345,678", 12345678),
        ("3,4", 4),
        ("1,2345", 2345),
        (",", None),
        (".", None),
        ("-", None),
        ("1,", 1),
        ("-5", -5),
        ("x = -5.", -5),
        ("−5", -5),
        ("-$5", -5),
        ("$-5", -5),
        ("10-5", 5),
        ("10 - 5 = 5", 5),
        ("(2)-3", 3),
        ("pages 3-7", 7),
        ("18%", 18),
        ("18km", 18),
        ("18.00", 18),
        ("3/4", Fraction(3, 4)),
        ("3/0", None),
        ("half, .5", Fraction(1, 2)),
        ("No.5", 5),
        ("room x2", None),
        ("7 or 1e5", 7),
        ("7 or 2^5", 7),
        ("1 234", 234),
        ("٣", None),
        ("9" * 51, None),
        ("", None),
    ],
)
def test_the_final_number(text, expected):
    assert final_number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("18", 18),
        (" 18.\n", 18),
        ("$1,234", 1234),
        ("18.0%", 18),
        ("-3/4", Fraction(-3, 4)),
        ('"-7"', -7),
        (".5", Fraction(1, 2)),
        ("It is 18", None),
        ("18 19", None),
        ("1e3", None),
        ("nan", None),
        ("٣", None),
        ("", None),
    ],
)
def test_a_text_that_is_a_number(text, expected):
    assert whole_number(text) == expected


def test_words_are_compared_without_their_dress():
    assert normalised(' "The  Cat." ') == normalised("the cat") == "the cat"
    assert normalised("ﬁne") == "fine"
    assert normalised("a.b") != normalised("ab")


FLOODS = {
    "opening tags": "<answer>",
    "closing tags": "</answer>",
    "boxes": r"\boxed{",
    "braces": "{",
    "digits": "1",
    "thousands": "1,111",
    "signs": "-",
    "decimals": "1.",
    "quotients": "1/",
    "powers": "1e",
    "spaces": " ",
}


@pytest.mark.parametrize("piece", FLOODS.values(), ids=FLOODS.keys())
def test_the_time_is_linear_in_the_length(piece):
    """A quadratic search would take minutes."""
    text = piece * (2 * 10**6 // len(piece))
    begun = time.perf_counter()
    for find in (tagged, boxed, final_number, whole_number):
        find(text)
    assert time.perf_counter() - begun < 5


def test_a_final_number_is_looked_for_near_the_end():
    assert final_number("5" + " " * TAIL) is None
    assert final_number("5" + " " * (TAIL - 1)) == 5
