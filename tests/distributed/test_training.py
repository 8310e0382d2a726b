"""`eggroll train --distributed`: one run of several processes, whatever becomes of one.

Each test starts its own processes, of two hosts with four devices each.
"""

import json
import os
import signal
import time

import jax
import numpy as np
import pytest
import several
import tiny_llm
import yaml

from eggroll import runs, training
from eggroll.cli.main import main
from eggroll.runs import Checkpoints


pytestmark = pytest.mark.distributed
SOON = 60  # seconds within which a command ends after a fault

STRATEGY = {"population": 16, "sigma": 0.0625}
COMMON = {
    "algorithm": "eggroll",
    "strategy": STRATEGY,
    "optimizer": {"name": "adam", "learning_rate": 0.05},
    "budget": {"generations": 6},
    "evaluate_every": 3,
    "checkpoint_every": 2,
    "keep_checkpoints": 99,
    "name": "run",
}
LINE = {**COMMON, "task": {"class": "toy:Remembering", "inputs": 8, "outputs": 4}}
SHARED = {**LINE, "mesh": {"model_devices": 2, "partition": {"w": [None, "model"]}}}
SCATTERED = {**SHARED, "mesh": {**SHARED["mesh"], "update": "scatter"}}
SCORED = {**COMMON, "task": {"class": "toy:ScoredOutside"}}
ALONE = {**COMMON, "task": {"class": "toy:ScoredAlone"}}
EGG = {
    **COMMON,
    "task": {
        "class": "tasks.language:Language",
        "lanes": 4,
        "tokens": 8,
        "layers": 1,
        "width": 16,
        "validation_lanes": 4,
    },
    "algorithm": "integer",
    "optimizer": {"name": "sgd", "learning_rate": 0.01},
}
REASONING = {
    **COMMON,
    "task": {
        "class": "tasks.reasoning.task:Reasoning",
        "prompts": 2,
        "workers": 1,
        "halvings": 0,
        "dataset": "addition",
        "dataset_options": {"low": 0, "high": 9, "prompt": "{a}{sign}{b}="},
        "validation_prompts": 6,
        "validation_batch": 4,
        "prompt_tokens": 12,
        "new_tokens": 3,
    },
}
CASES = {
    "line": LINE,
    "shared": SHARED,
    "scattered": SCATTERED,
    "scored": SCORED,
    "scored alone": ALONE,
    "integers": EGG,
    "reasoning": REASONING,
}


def written(folder, tree, **changes):
    """The config as a file; corpora and checkpoints are made where they are named."""
    tree = {**tree, "output": str(folder / "runs"), **changes}
    if "Language" in tree["task"]["class"]:
        (folder / "corpus").mkdir(exist_ok=True)
        text = "the quick brown fox jumps over the lazy dog. " * 40
        (folder / "corpus" / "text.txt").write_text(text)
        tree = {**tree, "task": {**tree["task"], "corpus": str(folder / "corpus")}}
    if "Reasoning" in tree["task"]["class"]:
        path = folder / "model"
        path = path if path.exists() else tiny_llm.write(path)
        tree = {**tree, "task": {**tree["task"], "checkpoint": str(path)}}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


def together(file, *settings, folder):
    """A run of two processes that ends well."""
    ended = several.train(file, *settings, folder=folder).wait()
    assert [one.status for one in ended] == [0, 0], ended
    return ended


def state_of(path, step):
    """What a checkpoint holds, on this process."""
    experiment = training.prepare(runs.load(path).config)
    return (
        Checkpoints(path / "checkpoints")
        .restore(training.initial_state(experiment), step)
        .state
    )


def assert_same(found, expected, *, exact):
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        if exact or jax.dtypes.issubdtype(x.dtype, np.integer):
            np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
        else:
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_make_the_run_of_one(tmp_path, case):
    exact = case == "integers"  # floats are added up in another order
    file = written(tmp_path, CASES[case])
    ended = together(file, folder=tmp_path)
    assert "step 6" in ended[0].text
    gloo = ("Gloo", "peer ranks")  # whose lines may be torn
    said = ended[1].text.splitlines()
    assert not [x for x in said if not any(word in x for word in gloo)]
    assert main(["train", str(file), "--name", "alone"]) == 0
    together_, alone = tmp_path / "runs/run", tmp_path / "runs/alone"
    assert_same(state_of(together_, 6), state_of(alone, 6), exact=exact)
    names = lambda path: sorted(p.name for p in path.iterdir())
    assert names(together_) == names(alone)
    steps = [row["step"] for row in runs.metrics.read(together_ / "metrics.jsonl")]
    assert steps == [*range(7)], "each row is written once"
    # One process goes on from what two have saved, on other devices, and two from one.
    for path in (together_, alone):
        (path / "checkpoints/6").rename(tmp_path / f"six-{path.name}")
    assert main(["train", "--resume", str(together_), "--devices", "4"]) == 0
    ended = several.train("--resume", str(alone), folder=tmp_path).wait()
    assert [one.status for one in ended] == [0, 0], ended
    assert_same(state_of(together_, 6), state_of(alone, 6), exact=exact)


def test_each_process_scores_its_own_members_where_they_are_scored_alone(tmp_path):
    together(written(tmp_path, ALONE), folder=tmp_path)
    rows = runs.metrics.read(tmp_path / "runs/run/metrics.jsonl")
    assert {row["together"] for row in rows[1:]} == {STRATEGY["population"] / 2}


# --- Faults


def began(started, folder, steps=3):
    """Waits until some steps are made."""
    file = folder / "runs/run/metrics.jsonl"
    started.wait_until(
        lambda: file.exists() and len(file.read_text().splitlines()) > steps
    )


def undisturbed(folder, path, tree):
    """The state of a run of one process that went as far without a fault."""
    step = max(int(p.name) for p in (path / "checkpoints").iterdir())
    file = written(folder, tree, budget={"generations": step}, name="undisturbed")
    assert main(["train", str(file)]) == 0
    return state_of(path, step), state_of(folder / "runs/undisturbed", step)


LONG = {**LINE, "budget": {"generations": 100_000}, "evaluate_every": 100_000}


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_all_who_say_how_to_go_on(tmp_path, victim):
    started = several.train(written(tmp_path, LONG), folder=tmp_path)
    with started:
        began(started, tmp_path)
        os.kill(started.worker(victim), signal.SIGKILL)
        at = time.monotonic()
        ended = started.wait(SOON)
        assert time.monotonic() - at < SOON
    path = tmp_path / "runs/run"
    for one in ended:
        assert one.status == 75
        assert f"go on with: eggroll train --resume {path} --distributed" in one.text
    assert_same(*undisturbed(tmp_path, path, LINE), exact=False)


def test_a_process_that_sleeps_for_ever_ends_all(tmp_path):
    task = {**LINE["task"], "class": "toy:Stuck"}
    started = several.train(
        written(tmp_path, LONG, task=task), folder=tmp_path, patience=20
    )
    with started:
        began(started, tmp_path, steps=4)
        at = time.monotonic()
        ended = started.wait(SOON)
        assert time.monotonic() - at < SOON
    assert [one.status for one in ended] == [75, 75]
    assert "made no step for" in ended[0].text
    assert "go on with: eggroll train --resume" in ended[0].text


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_ends_all_after_the_same_step(tmp_path, kind):
    started = several.train(written(tmp_path, LONG), folder=tmp_path)
    with started:
        began(started, tmp_path)
        started.parents[1].send_signal(kind)
        at = time.monotonic()
        ended = started.wait(SOON)
        assert time.monotonic() - at < SOON
    path = tmp_path / "runs/run"
    assert [one.status for one in ended] == [128 + kind] * 2
    assert f"is saved; go on with: eggroll train --resume {path}" in ended[0].text
    assert_same(*undisturbed(tmp_path, path, LINE), exact=False)


def test_what_the_first_refuses_all_refuse(tmp_path):
    file = written(tmp_path, LINE)
    (tmp_path / "runs").write_text("a file where the runs should go")
    ended = several.train(file, folder=tmp_path).wait(SOON)
    assert [one.status for one in ended] == [2, 2]
    assert "cannot be written" in ended[0].text
    assert "cannot be written" in ended[1].text


def test_recoverability_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_RECOVERABILITY", "1")
    ended = several.train(written(tmp_path, LINE), folder=tmp_path).wait(SOON)
    assert [one.status for one in ended] == [2, 2]
    assert "JAX_ENABLE_RECOVERABILITY is set" in ended[0].text


def test_the_clock_of_the_first_decides(tmp_path):
    file = written(tmp_path, LONG, budget={"seconds": 2})
    together(file, folder=tmp_path)
    rows = (tmp_path / "runs/run/metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["seconds"] >= 2
