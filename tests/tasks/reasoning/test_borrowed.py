"""Verifiers of other libraries; those that are not installed are skipped."""

import re

import pytest
from adversarial import adversarial

from tasks.reasoning import borrowed
from tasks.reasoning.guard import Guard
from tasks.reasoning.rewards import find


@pytest.mark.parametrize("dataset", sorted(borrowed.EVALUATING))
def test_verifiers_that_evaluate_the_completion_are_refused_by_name(dataset):
    message = f"verifier of '{dataset}' evaluates the completion"
    with pytest.raises(ValueError, match=message):
        find("reasoning_gym", {"dataset": dataset})


@pytest.mark.parametrize(
    ("name", "package", "options"),
    [
        ("math_verify", "math-verify", {}),
        ("reasoning_gym", "reasoning-gym", {"dataset": "x"}),
    ],
)
def test_a_missing_library_says_what_to_install(monkeypatch, name, package, options):
    monkeypatch.setattr(borrowed.importlib.util, "find_spec", lambda name: None)
    message = re.escape(f"pip install 'eggroll-jax[{package}]'")
    with pytest.raises(ValueError, match=message):
        find(name, options)


def test_no_other_verifier_of_reasoning_gym_evaluates_what_it_is_given():
    """The nine, by the library's source: a tenth would be news."""
    gym = pytest.importorskip("reasoning_gym")
    from pathlib import Path

    evaluates = re.compile(r"(?<![\w.])eval\((answer)|parse_expr\((user_)?answer")
    found = {
        path.stem
        for path in Path(gym.__file__).parent.rglob("*.py")
        if evaluates.search(path.read_text())
    }
    assert found == borrowed.EVALUATING


def test_math_verify_takes_what_is_equal_and_nothing_else():
    pytest.importorskip("math_verify")
    reward = find("math_verify")
    score = lambda text, answer=r"\frac{1}{2}": reward.score(text, answer=answer)
    for text in (
        r"\boxed{0.5}",
        r"\boxed{1/2}",
        r"so \boxed{3} no \boxed{\frac{2}{4}}",
    ):
        assert score(text) == 1
    for text in (r"\boxed{1/2} or \boxed{3}", "1/2", r"\boxed{}", "", r"\boxed{1/2"):
        assert score(text) == 0
    with pytest.raises(ValueError, match="cannot parse the reference ''"):
        score(r"\boxed{1}", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "columns"),
    [
        ("math_verify", {}, {"answer": r"\frac{1}{2}"}),
        (
            "reasoning_gym",
            {"dataset": "leg_counting"},
            {"answer": "286", "metadata": {}, "question": "?"},
        ),
    ],
)
def test_adversarial_strings_do_not_get_past_the_guard(name, options, columns):
    pytest.importorskip(name)
    texts = [
        rf"\boxed{{{text}}}" if i % 2 else text
        for i, text in enumerate(adversarial(500))
    ]
    given = {key: [value] * 500 for key, value in columns.items()}
    with Guard(find(name, options), deadline=2) as guard:
        found = guard.score([""] * 500, texts, given)
    assert found.scores.max() < 0.5
    assert {*found.failed} <= {"deadline", "memory", "exception"}
