"""Runs of each kind of task, made again from their logs from the very start."""

import pytest
import tiny_llm
from texts import folder_of

from eggroll import runs, training
from eggroll.config import load, resolve
from eggroll.runs import digests
from tests.tasks.reasoning import test_resume as reasoning


POLICY = ["task.hidden=[8]", "task.episodes=1", "task.max_steps=20"]
CASES = {
    "control": ["rl/cartpole.yaml", *POLICY, "normalise_observations=true"],
    "Gymnasium": [
        "rl/gymnasium_cartpole.yaml",
        *POLICY,
        "normalise_observations=true",
        "processes=0",
    ],
    "integers": [
        "language/pretrain.yaml",
        "algorithm=integer",
        "sigma=0.0625",
        *["lanes=4", "tokens=8", "layers=1", "width=16", "validation_lanes=4"],
    ],
    "bfloat16, a baseline, two devices": [
        "supervised/regression.yaml",
        *["precision=bfloat16", "shaping=centre", "strategy.baseline={half_life: 2}"],
        *["mesh.devices=2", "chunk_size=4"],
    ],
}


def check(settings, *, carries=False):
    experiment = training.prepare(settings)
    run = runs.create(settings)
    trained = digests(training.train(experiment, run).state)
    start = training.rewinding.started(experiment)
    found = training.replay.rebuilt(experiment, run.replay, start)
    assert found.step == 3
    made = digests(found.state)
    assert experiment.algorithm.parts.carries() == carries
    differ = [leaf for leaf in trained if made[leaf] != trained[leaf]]
    assert all(carries and leaf.startswith(".carry") for leaf in differ)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_log_leads_where_the_run_did(name, tmp_path):
    file, *changes = CASES[name]
    changes = [tuple(one.split("=", 1)) for one in changes]
    if file.startswith("language"):
        changes.append(("corpus", str(folder_of(tmp_path / "texts"))))
    budget = {"generations": "3", "evaluate_every": "3", "output": str(tmp_path)}
    few = {"population": "16", **budget, "budget.target": "null"}
    settings = load(f"configs/{file}", [*few.items(), *changes], name="run")
    check(settings, carries=name == "integers")


@pytest.mark.slow
def test_the_log_leads_where_a_language_model_went(tmp_path):
    model = str(tiny_llm.write(tmp_path / "model"))
    check(resolve(reasoning.settings(model, tmp_path, reasoning.SAMPLED, {})))
