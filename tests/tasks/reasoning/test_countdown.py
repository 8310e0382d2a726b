"""Expressions and what Countdown pays for them."""

import time
from fractions import Fraction
from random import Random

import pytest

from tasks.reasoning.countdown import DEEPEST, LONGEST, Countdown, Value, evaluate


def slowly(text):
    """The value by Python's own arithmetic; the text is ours."""
    import re

    try:
        return eval(re.sub(r"(\d+)", r"Fraction(\1)", text), {"Fraction": Fraction})
    except ZeroDivisionError:
        return None


def written(random, depth=0):
    """A random expression."""
    if depth > 4 or random.random() < 0.3:
        return str(random.randint(0, 20))
    left, right = written(random, depth + 1), written(random, depth + 1)
    text = f"{left} {random.choice('+-*/')} {right}"
    return random.choice([f"({text})", text, f"-({text})", f"{left}*-{right}"])


def test_values_are_those_of_plain_arithmetic():
    random = Random(0)
    for _ in range(500):
        text = written(random)
        assert evaluate(text).value == slowly(text), text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2*3", Value(Fraction(7), [1, 2, 3])),
        ("8 - 4 - 2", Value(Fraction(2), [8, 4, 2])),
        ("8 / 4 / 2", Value(Fraction(1), [8, 4, 2])),
        ("1 / 3 * 3", Value(Fraction(1), [1, 3, 3])),
        ("(1+2)*3 = 9", Value(Fraction(9), [1, 2, 3])),
        ("1+2 = 4-1", Value(Fraction(3), [1, 2])),
        ("1 + 2 = 4", Value(None, [1, 2])),
        ("1 / (2 - 2)", Value(None, [1, 2, 2])),
        ("6 × 7 ÷ 2 − 1", Value(Fraction(20), [6, 7, 2, 1])),
        ("--3", Value(Fraction(3), [3])),
        ("007", Value(Fraction(7), [7])),
    ],
)
def test_what_expressions_come_to(text, expected):
    assert evaluate(text) == expected


MALFORMED = [
    "",
    " ",
    "1 +",
    "* 1",
    "(1",
    "1)",
    "()",
    "1 2",
    "2(3)",
    "2**3",
    "2^3",
    "7 // 2",
    "7 % 2",
    "1.5",
    "1e3",
    "1_0",
    "0x10",
    "٣ + ²",
    "1 = 1 = 1",
    "= 1",
    "x",
    "abs(1)",
    "__import__('os')",
    "1; 2",
    "1 + 2 is it",
    "9" * 21,
    "(" * (DEEPEST + 1) + "1" + ")" * (DEEPEST + 1),
    "1" + "+1" * LONGEST,
]


@pytest.mark.parametrize("text", MALFORMED)
def test_what_is_no_expression_has_no_value(text):
    assert evaluate(text) is None


def test_parentheses_may_be_deep_but_not_too_deep():
    assert evaluate("(" * DEEPEST + "1" + ")" * DEEPEST).value == 1


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("<answer>(3 + 5) * 7</answer>", 1.0),
        ("I try 1+1.\n<answer>7*(5+3) = 56</answer> Done.", 1.0),
        ("<answer>3</answer><answer>7 * (5 + 3)</answer>", 1.0),
        ("<answer>7*(5+3)</answer><answer>3</answer>", 0.1),
        ("<answer>3 + 5 + 7</answer>", 0.1),  # another value
        ("<answer>7 * 8</answer>", 0.1),  # other numbers
        ("<answer>56</answer>", 0.1),
        ("<answer>7 * (5 + 3) + 3 - 3</answer>", 0.1),  # a number used twice
        ("<answer>7 * (5 + 3) = 57</answer>", 0.1),
        ("<answer>56 = 7 * (5 + 3)</answer>", 0.1),
        ("<answer>1 / (5 - 5)</answer>", 0.1),
        ("<answer>the sum</answer>", 0.0),
        ("<answer></answer>", 0.0),
        ("7 * (5 + 3)", 0.0),
        ("<answer>7 * (5 + 3)", 0.0),
        ("", 0.0),
    ],
)
def test_what_countdown_pays(completion, expected):
    found = Countdown().score(completion, numbers=[3, 5, 7], target=56)
    assert found == expected


def test_numbers_may_be_left_out_where_the_task_says_so():
    text = "<answer>7 * 8</answer>"
    columns = {"numbers": [7, 8, 9], "target": 56}
    assert Countdown().score(text, **columns) == 0.1
    assert Countdown(at_most_once=True).score(text, **columns) == 1.0
    twice = "<answer>8 * 7 + 9 - 9</answer>"
    assert Countdown(at_most_once=True).score(twice, **columns) == 0.1


def test_equal_numbers_are_each_used():
    columns = {"numbers": [2, 2, 3], "target": 7}
    assert Countdown().score("<answer>2*2+3</answer>", **columns) == 1.0
    assert Countdown().score("<answer>2+2+3</answer>", **columns) == 1.0
    assert Countdown().score("<answer>2*2+3</answer>", numbers=[2, 3], target=7) == 0.1


def test_targets_are_compared_exactly():
    score = Countdown().score
    assert score("<answer>137/5</answer>", numbers=[137, 5], target="27.4") == 1.0
    assert score("<answer>137/5</answer>", numbers=[137, 5], target=27.4) == 1.0
    nearly = "<answer>1000000/3</answer>"
    assert score(nearly, numbers=[10**6, 3], target="333333.3333333333") == 0.1


def test_grades_are_settings():
    reward = Countdown(solved=5.0, form=2.0, floor=-1.0)
    texts = ["<answer>1+2</answer>", "<answer>1</answer>", ""]
    found = reward([""] * 3, texts, numbers=[[1, 2]] * 3, target=[3] * 3)
    assert found == [5.0, 2.0, -1.0]


def test_the_time_is_bounded():
    columns = {"numbers": [1, 2, 3], "target": 6}
    begun = time.perf_counter()
    for inside in ("9" * 20 + "*" + "9" * 20, "1/3", "-", "("):
        long = "*".join([inside] * (LONGEST // (len(inside) + 1)))
        assert Countdown().score(f"<answer>{long}</answer>", **columns) <= 0.1
    assert time.perf_counter() - begun < 1


def test_a_whole_completion_may_be_the_expression():
    reward, columns = Countdown(take="all"), {"numbers": [3, 5, 7], "target": 56}
    assert reward.score(" (3 + 5) * 7", **columns) == 1.0
    assert reward.score("<answer>(3 + 5) * 7</answer>", **columns) == 0.0
    assert reward.reference(solution="(3 + 5) * 7") == "(3 + 5) * 7"
    with pytest.raises(ValueError, match="take must be tag or all, got 'line'"):
        Countdown(take="line")


def test_expressions_are_voted_on_whatever_their_spaces():
    assert Countdown().answer_of("so <answer> 3+ 5 </answer>") == "3+5"
    assert Countdown().answer_of("3 + 5") == ""  # is no answer
    assert Countdown(take="all").answer_of("3 + 5 ") == "3+5"
