"""Runs that are killed again and again, by signals that leave no time to tidy up.

Each life is a process of its own, which is ended at a moment that chance chooses, often
in the middle of writing a step, the log or a checkpoint.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from texts import folder_of
from toyrun import figures as figures_of

from eggroll import runs, training
from eggroll.runs import Checkpoints, digests


ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("EGGROLL_KILLS", "20"))
LINE = {"optimizer": {"name": "adam", "learning_rate": 0.05}}
CONTROL = {
    "class": "tasks.control:Control",
    "environment": "gymnax/CartPole-v1",
    "hidden": [8],
    "max_steps": 30,
    "normalise_observations": True,
    "evaluation_episodes": 4,
}
TEXTS = {
    "class": "tasks.language:Language",
    "lanes": 4,
    "tokens": 8,
    "layers": 1,
    "width": 16,
    "validation_lanes": 4,
}
FAMILIES = {
    "shared state": {"task": {"class": "toy:Sharing"}, **LINE},
    "carries": {"task": {"class": "toy:Remembering"}, **LINE},
    "scored on the host": {"task": {"class": "toy:ScoredOutside"}, **LINE},
    "control": {"task": CONTROL, **LINE},
    "integers": {"task": TEXTS, "algorithm": "integer"},
    "backprop": {"task": {"class": "toy:Line"}, "algorithm": "backprop", **LINE},
}


def started(words: list[str], folder: Path) -> subprocess.Popen:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests/support")])
    flags = "--xla_force_host_platform_device_count=1"
    return subprocess.Popen(
        [sys.executable, "-m", "eggroll", *words],
        env=os.environ | {"PYTHONPATH": paths, "XLA_FLAGS": flags},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen) -> None:
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said


def lived(process: subprocess.Popen, rows: Path, chance: random.Random) -> bool:
    """Ends a process some time after its first step; whether it did not end before."""
    before = rows.stat().st_size if rows.exists() else 0
    while process.poll() is None:
        if rows.exists() and rows.stat().st_size > max(before, 500):
            break
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.4))
    kind = signal.SIGKILL if chance.random() < 0.8 else signal.SIGTERM
    process.send_signal(kind)
    said = process.communicate(timeout=300)[1]
    assert process.returncode in (0, -kind, 128 + kind), said
    return process.returncode != 0


def figures(path: Path) -> list[dict[str, float]]:
    """What was measured, without the times."""
    rows = figures_of(runs.load(path, trust=True))
    return [{k: v for k, v in row.items() if not k.endswith("/s")} for row in rows]


def state_of(path: Path) -> dict[str, str]:
    run = runs.load(path, trust=True)
    like = training.initial_state(training.prepare(run.config))
    return digests(Checkpoints(run.checkpoints).restore(like).state)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_kills_change_nothing(name, tmp_path):
    steps = 1500 if name in ("control", "integers") else 6000
    settings = {
        "strategy": {"population": 16, "sigma": 0.0625},
        "budget": {"generations": steps},
        "evaluate_every": 500,
        "checkpoint_every": 37,
        "mesh": {"devices": 1},
        "output": str(tmp_path),
        **FAMILIES[name],
    }
    if name == "integers":
        corpus = str(folder_of(tmp_path / "texts"))
        settings["task"] = {**settings["task"], "corpus": corpus}
    file, chance = tmp_path / "config.yaml", random.Random(name)
    file.write_text(yaml.safe_dump(settings))
    finished(started(["train", str(file), "--name", "whole"], tmp_path))
    killed, kills = tmp_path / "killed", 0
    words = ["train", str(file), "--name", "killed"]
    while kills < KILLS and lived(
        started(words, tmp_path), killed / "metrics.jsonl", chance
    ):
        kills, words = kills + 1, ["train", "--resume", str(killed)]
    finished(started(words, tmp_path))
    assert kills == KILLS
    assert state_of(killed) == state_of(tmp_path / "whole")
    assert figures(killed) == figures(tmp_path / "whole")
    if name in ("backprop", "carries"):
        return
    for step in (1, chance.randrange(2, steps)):
        for one in ("whole", "killed"):
            path = str(tmp_path / one)
            finished(started(["rewind", path, "--step", str(step)], tmp_path))
        states = [
            state_of(tmp_path / f"{one}-step-{step}") for one in ("whole", "killed")
        ]
        assert states[0] == states[1]
