"""Datasets by name."""

import json
from pathlib import Path
from random import Random

import pytest

from eggroll import UserError
from tasks.reasoning import rows
from tasks.reasoning.countdown import evaluate
from tasks.reasoning.problems import CountdownProblems
from tasks.reasoning.rewards import find
from tasks.reasoning.sources import load


WORDS = str(Path(__file__).parent / "word_problems.jsonl")


def written(path, given) -> str:
    path.write_text("\n".join(json.dumps(one) for one in given), encoding="utf-8")
    return str(path)


@pytest.fixture
def capitals(tmp_path):
    given = [{"q": f"Capital of land {i}?", "a": f"City {i}"} for i in range(20)]
    return written(tmp_path / "capitals.jsonl", given)


def test_references_of_a_thousand_countdown_items_score_in_full():
    dataset = load("countdown", train=1000)
    reward = find(dataset.reward)
    dataset.require(reward.columns)
    for row in dataset.train:
        completion = reward.reference(**row.columns)
        columns = {name: row.columns[name] for name in reward.columns}
        assert reward.score(completion, **columns) == 1
        assert len(columns["numbers"]) in (3, 4)
        assert all(str(number) in row.prompt for number in columns["numbers"])


def test_generated_items_are_those_of_their_seed_and_index():
    one, same, other = (load("countdown", seed=seed) for seed in (0, 0, 1))
    assert one.train[123] == same.train[123] != other.train[123]
    assert one.validation == same.validation != other.validation


def test_countdown_keeps_to_its_ranges():
    options = {"counts": [4], "low": 3, "high": 20, "target_high": 50}
    dataset = load("countdown", options, train=50, validation=50)
    rows.check_disjoint(dataset)
    for row in dataset.validation:
        assert len(row.columns["numbers"]) == 4
        assert {*row.columns["numbers"]} <= set(range(3, 21))
        assert 1 <= row.columns["target"] <= 50
        found = evaluate(row.columns["solution"])
        assert found.value == row.columns["target"]


def test_numbers_in_another_order_are_the_same_item():
    contents = [CountdownProblems().draw(Random(i))[1] for i in range(20)]
    assert all(list(numbers) == sorted(numbers) for numbers, _ in contents)


def test_sums_are_right_and_their_prompt_a_setting():
    options = {"low": -9, "high": 9, "signs": "+-*", "prompt": "{a}{sign}{b}="}
    dataset = load("addition", options, train=200, validation=64)
    rows.check_disjoint(dataset)
    for row in dataset.train:
        a, sign, b, answer = (row.columns[k] for k in ("a", "sign", "b", "answer"))
        assert row.prompt == f"{a}{sign}{b}="
        assert int(answer) == {"+": a + b, "-": a - b, "*": a * b}[sign]
    reward = find(dataset.reward)
    first = dataset.train[0].columns
    assert reward.score(reward.reference(**first), answer=first["answer"]) == 1


def test_word_problems_come_from_files():
    dataset = load("gsm8k", {"train": WORDS}, validation=3)
    assert (len(dataset.train), len(dataset.validation)) == (7, 3)
    reward = find(dataset.reward)
    dataset.require(reward.columns)
    for row in (*dataset.train, *dataset.validation):
        completion = reward.reference(**row.columns)
        assert completion == row.columns["solution"]
        assert reward.score(completion, answer=row.columns["answer"]) == 1
    with pytest.raises(UserError, match=r"row \d+ of train is row \d+ of validation"):
        load("gsm8k", {"train": WORDS, "validation": WORDS})


def test_columns_get_the_names_that_rewards_know(capitals):
    options = {"columns": {"prompt": "q", "answer": "a"}, "system": "Be brief."}
    dataset = load(capitals, options, validation=5)
    prompt, columns, _ = dataset.train[0]
    assert [message["role"] for message in prompt] == ["system", "user"]
    assert list(columns) == ["answer"]


def test_a_prompt_may_be_written_from_columns(capitals):
    dataset = load(capitals, {"prompt": "{{}} {q} Answer:"}, validation=5)
    row = dataset.validation[0]
    assert row.prompt == f"{{}} {row.columns['q']} Answer:"


def test_prompts_may_be_conversations(tmp_path):
    talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "!"}]
    given = [{"prompt": [*talk, {"role": "user", "content": str(i)}]} for i in range(4)]
    dataset = load(written(tmp_path / "talk.jsonl", given), validation=1)
    assert len(dataset.train[0].prompt) == 3


def test_hub_datasets_are_read_by_their_loader(tmp_path):
    pytest.importorskip("datasets")
    for part, numbers in (("train", range(9)), ("test", range(9, 12))):
        written(tmp_path / f"{part}.jsonl", [{"q": str(i), "a": i} for i in numbers])
    options = {
        "path": "json",
        "data_files": {
            part: str(tmp_path / f"{part}.jsonl") for part in ("train", "test")
        },
        "cache_dir": str(tmp_path / "cache"),
        "validation": "test",
        "columns": {"prompt": "q", "answer": "a"},
    }
    dataset = load("huggingface:json", options)
    assert (len(dataset.train), len(dataset.validation)) == (9, 3)


def test_reasoning_gym_makes_items_that_are_in_one_part_only():
    pytest.importorskip("reasoning_gym")
    dataset = load("reasoning_gym:leg_counting", train=60, validation=20)
    rows.check_disjoint(dataset)
    reward = find(dataset.reward, dataset.reward_options)
    dataset.require(reward.columns)
    columns = dataset.train[0].columns
    assert reward(
        [""], [reward.reference(**columns)], **{k: [v] for k, v in columns.items()}
    ) == [1]


BAD = [
    ("countdwn", {}, "there is no file 'countdwn'; give one of JSON lines"),
    ("countdown", {"highest": 3}, "dataset_options: .*'highest'"),
    ("countdown", {"counts": []}, "counts must be numbers from 1 to 10"),
    ("countdown", {"low": 9, "high": 2}, "low and high must be in order"),
    ("countdown", {"target_high": 0}, "target_high must be at least 1"),
    ("countdown", {"low": 90, "counts": [1], "target_high": 9}, "reached no target"),
    ("countdown", {"prompt": "{numbrs}"}, r"columns 'numbers', 'target'.*'numbrs'"),
    ("countdown", {"high": 2, "counts": [1]}, "hardly more than 2 different items"),
    ("addition", {"signs": "/"}, r"signs must be some of \+ - \*"),
    ("addition", {"low": 2, "high": 1}, "low is above high"),
    (WORDS, {}, "row 0 of train has no prompt.*'question', 'answer'"),
    (WORDS, {"columns": {"prompt": "text"}}, "lacks the column 'text', from which"),
    (WORDS, {"columns": {"answer": "answer"}}, "lacks the column 'prompt'"),
    (WORDS, {"prompt": "{question}", "split": "x"}, r"has no \['split'\] for files"),
    ("reasoning_gym:no_such", {}, "dataset 'reasoning_gym:no_such'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "message"), BAD)
def test_impossible_datasets_are_refused(name, options, message):
    with pytest.raises(UserError, match=message):
        load(name, options, validation=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'FILE' is empty"),
        ('{"prompt": "a"}\n{"prompt', "line 2 is no JSON"),
        ('{"prompt": "a"}\n["b"]', "line 2: expected an object with columns"),
        ('{"prompt": " "}', "row 0 of train has no prompt"),
        ('{"prompt": [{"role": "system", "content": "x"}]}', "the user's among them"),
        ('{"prompt": []}', "row 0 of train has no prompt"),
    ],
)
def test_bad_files_are_refused_by_row(tmp_path, text, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message.replace("FILE", str(path))):
        load(str(path), validation=1)


def test_a_word_problem_without_a_number_is_refused(tmp_path):
    path = written(tmp_path / "w.jsonl", [{"question": "?", "answer": "none"}])
    with pytest.raises(UserError, match="row 0 of train: its answer holds no number"):
        load("gsm8k", {"train": path}, validation=1)


def test_a_missing_library_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'eggroll-jax\[llm\]'"):
        load("huggingface:some/thing")
