"""What cannot be learnt from is named before the first step, by `eggroll train`."""

import json
import re

import pytest
import tiny_llm
import yaml

from eggroll.cli.main import main


REWARDS = "reasoning_rewards:"
ROWS = [{"prompt": f"say {i}", "answer": str(i)} for i in range(9)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(tiny_llm.write(tmp_path_factory.mktemp("tiny") / "model", layers=1))


def refused(capsys, tmp_path, checkpoint, rows=ROWS, **task) -> str:
    """What a run is refused with, before there is anything of it."""
    data, path = tmp_path / "rows.jsonl", tmp_path / "run.yaml"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "class": "tasks.reasoning.task:Reasoning",
        "checkpoint": checkpoint,
        "dataset": str(data),
        "reward": "exact",
        "validation_prompts": 3,
        "prompt_tokens": 16,
        "new_tokens": 3,
        "workers": 0,
        "halvings": 0,
        **task,
    }
    strategy, output = {"population": 2, "sigma": 0.1}, tmp_path / "runs"
    config = {"task": settings, "strategy": strategy, "budget": {"generations": 1}}
    config |= {"output": str(output), "mesh": {"devices": 1}}
    path.write_text(yaml.safe_dump(config))
    assert main(["train", str(path)]) == 2
    assert not output.exists()
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "rows.jsonl' is empty: expected at least one row"),
        ([{"answer": "1"}] * 9, "has no prompt: expected a text"),
        ([{"prompt": f"say {i}"} for i in range(9)], "reads a column 'answer'"),
        (
            [*ROWS, {"prompt": [{"role": "system", "content": "x"}]}],
            "row 9 .*the user's",
        ),
    ],
    ids=["empty", "no prompt", "no answer", "no user"],
)
def test_datasets(capsys, tmp_path, checkpoint, rows, said):
    assert re.search(said, refused(capsys, tmp_path, checkpoint, rows))


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ("always_raise", "fails on a first completion, 'one', by exception: KeyErr"),
        ("always_nan", "by nan: expected finite numbers"),
        ("too_few", "by count: expected 1 scores, got 0"),
        ("not_a_list", "by type: "),
        ("no_completion", "must take `prompts, completions"),
        ("nothing", "has nothing of this name"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_rewards(capsys, tmp_path, checkpoint, reward, said, workers):
    found = refused(
        capsys, tmp_path, checkpoint, reward=REWARDS + reward, workers=workers
    )
    assert said in found
    assert "reward" in found


@pytest.mark.parametrize(
    "template",
    ["{% if add_generation_prompt %}<a>{% endif %}", "{{ messages[0]['role'][0] }}<a>"],
)
def test_templates_without_a_user_s_turn(capsys, tmp_path, template):
    path = tiny_llm.write(tmp_path / "model", template=template, layers=1)
    found = refused(capsys, tmp_path, str(path))
    assert "chat: the checkpoint's template leaves out the user's turn" in found
    assert "set chat to false" in found
