"""Rewards by name, own verifiers of short answers, and functions of users."""

import functools
import json
import pickle
from pathlib import Path

import pytest
import reasoning_rewards
from adversarial import OWN, adversarial

from tasks.reasoning.rewards import GSM8K, Exact, find, gold_number
from tasks.reasoning.verifier import Function, per_item


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("so 6 * 3 = 18.\n#### 18", 1.0),
        ("#### 18 dollars", 1.0),
        ("#### $18.00\nThat was easy: 5 steps", 1.0),
        (r"2 + 2 is \boxed{18}. Was it 3?", 1.0),
        ("<answer>18</answer> 4", 1.0),
        ("She has 18 apples.", 1.0),
        ("17 or 18", 1.0),
        ("18 or 17", 0.0),
        ("#### 17 or rather #### 18", 1.0),
        ("#### 18\n#### 17", 0.0),
        ("####", 0.0),
        ("-18", 0.0),
        ("1,8", 0.0),
        ("eighteen", 0.0),
        ("", 0.0),
    ],
)
def test_the_final_number_of_a_word_problem(completion, expected):
    assert GSM8K().score(completion, answer="18") == expected


def test_references_of_word_problems_are_normalised():
    for text in ("1,234", "#### 1,234", "so it is 3.\n#### $1234.0", 1234):
        assert gold_number(text) == 1234
    assert gold_number("#### -5") == -5
    assert GSM8K().score("1234", answer="#### 1,234") == 1.0


def test_a_reference_without_a_number_never_pays():
    for answer in ("", "none", "#### ", None):
        assert GSM8K().score("", answer=answer) == 0
        assert GSM8K().score("none 5", answer=answer) == 0


def test_what_was_not_thought_through_has_no_answer():
    reward = GSM8K(after="</think>", form=0.2)
    assert reward.score("<think> 18", answer="18") == 0
    assert reward.score("<think> 3 </think> 18", answer="18") == 1
    assert reward.score("<think> 18 </think> 3", answer="18") == 0.2
    assert reward.score(reward.reference(answer="18"), answer="18") == 1


@pytest.mark.parametrize(
    ("take", "completion", "expected"),
    [
        ("all", "7", 1.0),
        ("all", " 7.0\n", 1.0),
        ("all", "The answer is 7", 0.0),
        ("all", "8", 0.1),
        ("all", "7 8", 0.0),
        ("line", "7\nBecause 3 + 4 is that.", 1.0),
        ("number", "3 + 4 = 7", 1.0),
        ("number", "3 + 4", 0.1),
        ("tag", "9 <answer>7</answer> 9", 1.0),
        ("tag", "7", 0.0),
        ("boxed", r"\boxed{7}", 1.0),
        ("boxed", "7", 0.0),
        ("all", "", 0.0),
    ],
)
def test_exact_numbers(take, completion, expected):
    assert Exact(take=take, form=0.1).score(completion, answer="7") == expected


def test_exact_words():
    score = Exact(form=0.1).score
    assert score(" paris. ", answer="Paris") == 1
    assert score("It is Paris", answer="Paris") == 0
    assert score("7", answer="Paris") == 0
    assert score("the UK", answer=["U.K.", "The  UK"]) == 1
    assert score("8", answer=["7", "8.0"]) == 1


@pytest.mark.parametrize("answer", ["", " ", "...", None, []])
@pytest.mark.parametrize("take", ["all", "number", "tag"])
def test_an_empty_reference_never_pays(take, answer):
    for completion in ("", " ", ".", "5", "<answer></answer>"):
        assert Exact(take=take).score(completion, answer=answer) == 0


@pytest.mark.parametrize("take", ["all", "line", "number", "tag", "boxed"])
def test_a_right_answer_is_known_for_each_form(take):
    reward = Exact(take=take)
    assert reward.score(reward.reference(answer="-7"), answer="-7") == 1


def test_word_problems_as_they_are_collected_score_in_full():
    """Ten of our own, with the traps of the collected ones."""
    path = Path(__file__).parent / "word_problems.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    reward = GSM8K()
    for row in rows:
        assert reward.score(row["answer"], answer=row["answer"]) == 1, row
        wrong = row["answer"] + "1"
        assert reward.score(wrong, answer=row["answer"]) == 0, row
    assert len(rows) == 10


# ------------------------------------------------------------------- by their names


def test_rewards_are_found_by_name_and_can_be_sent_to_workers():
    for name, options in (
        ("countdown", {"at_most_once": True}),
        ("gsm8k", {"after": "</think>"}),
        ("exact", {"take": "number"}),
        ("reasoning_rewards:behave", {"wanted": "x"}),
        ("reasoning_rewards:in_batches", {}),
    ):
        reward = find(name, options)
        assert pickle.loads(pickle.dumps(reward)).columns == reward.columns


def test_a_function_of_one_completion_is_wrapped():
    @per_item
    def length(completion, unit):
        return len(completion) / unit

    assert length(["", ""], ["abc", "d"], unit=[3, 1], other=[0, 0]) == [1, 1]
    assert length.columns == ("unit",)


def test_a_function_of_all_gets_what_it_knows():
    def reward(completions, answer):
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]

    found = Function(reward)
    assert found(["p", "p"], ["a", "b"], answer=["a", "a"], other=[1, 2]) == [1, 0]
    assert found.columns == ("answer",)
    assert Function(reasoning_rewards.in_batches).columns == ("answer",)
    partial = Function(functools.partial(reasoning_rewards.behave, wanted="a"))
    assert partial(["p"], ["a"], answer=["z"]) == [1]
    assert (partial.columns, partial.name) == ((), "behave")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("countdow", {}, "there is no reward 'countdow': expected one of countdown"),
        ("countdown", {"forms": 1}, "unexpected keyword argument 'forms'"),
        ("exact", {"take": "last"}, "take must be one of all, tag"),
        ("no_such_module:f", {}, "no_such_module cannot be imported"),
        ("reasoning_rewards:f", {}, "reasoning_rewards has nothing of this name"),
        ("reasoning_rewards:os", {}, "it is no function"),
        ("reasoning_rewards:behave", {"speed": 1}, "'speed'"),
        (
            "reasoning_rewards:no_completion",
            {},
            r"must take `prompts, completions.*\(t",
        ),
    ],
)
def test_impossible_rewards_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        find(name, options)


def test_per_item_needs_a_completion():
    with pytest.raises(ValueError, match="in_batches must take `completion`"):
        per_item(reasoning_rewards.in_batches)


# ------------------------------------------------------------- adversarial strings


@pytest.mark.parametrize(("name", "options", "columns"), OWN)
def test_adversarial_strings_neither_pay_nor_raise_nor_hang(name, options, columns):
    reward = find(name, options)
    for text in adversarial(500):
        assert reward.score(text, **columns) <= 0.1, text
