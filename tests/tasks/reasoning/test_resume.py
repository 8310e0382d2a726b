"""A run of the reasoning task that stops goes on as if it never had."""

import shutil

import pytest
import tiny_llm
import yaml
from toyrun import figures

from eggroll import runs, training
from eggroll.cli.main import main
from eggroll.runs.checkpoint import digests


SAMPLED = {"temperature": 1.0, "completions": 2}
GREEDY = {"algorithm": "eggroll"}
BASELINE = {
    "strategy.shaping": "centre",
    "strategy.baseline": {"half_life": 2},
    "precision": "bfloat16",
}


def letters(completion: str) -> float:
    """Something that differs from member to member."""
    return sum(ord(x) % 32 for x in completion) / 100


def settings(checkpoint, output, task, more):
    made = {
        "task": {
            "class": "tasks.reasoning.task:Reasoning",
            "checkpoint": checkpoint,
            "dataset": "addition",
            "dataset_options": {"low": 0, "high": 9, "prompt": "{a}{sign}{b}="},
            "reward": "tests.tasks.reasoning.test_resume:letters",
            "validation_prompts": 4,
            "validation_batch": 4,
            "prompt_tokens": 12,
            "new_tokens": 3,
            "prompts": 2,
            "workers": 0,
            "halvings": 0,
            **task,
        },
        "strategy": {"population": 4, "sigma": 0.2},
        "optimizer": {"name": "adam", "learning_rate": 0.05},
        "budget": {"generations": 3},
        "evaluate_every": 2,
        "checkpoint_every": 1,
        "keep_checkpoints": 9,
        "diagnose_every": 0,
        "mesh": {"devices": 1},
        "output": str(output),
        "name": "run",
    }
    for name, value in more.items():
        group, _, last = name.rpartition(".")
        (made[group] if group else made)[last] = value
    return made


def state_of(path):
    """The state of a run's last checkpoint."""
    run = runs.load(path)
    like = training.initial_state(training.prepare(run.config))
    return runs.Checkpoints(run.checkpoints).restore(like=like).state


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "more"),
    [
        ({}, GREEDY),
        ({**SAMPLED, "workers": 1}, BASELINE),
        ({**SAMPLED, "grpo": {"divergence": 0.1}}, {"algorithm": "grpo"}),
    ],
    ids=["greedy", "sampled, by workers, a baseline", "GRPO"],
)
def test_it_ends_bit_for_bit_as_one_that_never_stopped(tmp_path, task, more):
    checkpoint = str(tiny_llm.write(tmp_path / "model", layers=1, tied=False))
    path, stopped = tmp_path / "run.yaml", tmp_path / "stopped"
    path.write_text(yaml.safe_dump(settings(checkpoint, tmp_path, task, more)))
    assert main(["train", str(path)]) == 0
    whole = tmp_path / "run"
    shutil.copytree(whole, stopped)
    for step in (2, 3):
        shutil.rmtree(stopped / "checkpoints" / str(step))
    assert main(["train", "--resume", str(stopped)]) == 0
    assert digests(state_of(stopped)) == digests(state_of(whole))
    rows = figures(runs.load(whole))
    times = {name for name in rows[-1] if name.endswith("/s")}
    without = lambda row: {k: v for k, v in row.items() if k not in times}
    again = figures(runs.load(stopped))
    assert [without(row) for row in again] == [without(row) for row in rows]
    assert len({row["reward"] for row in rows if "reward" in row}) > 1
    assert rows[-1]["validation/drift"] > 0
