"""Runs that are killed again and again, by signals that leave no time to tidy up.

Each life is a process of its own, which is ended at a moment that chance chooses, often
in the middle of writing a step, the log or a checkpoint: killed, asked to stop, or by
an error where none was foreseen.
"""

import os
import random
import time
from pathlib import Path
from signal import SIGKILL, SIGTERM, SIGUSR1

import pytest
import yaml
from families import CARRYING, FAMILIES, UNLOGGED, missing, settings
from nursery import Life, Nursery
from toyrun import figures as figures_of

from eggroll import runs, training
from eggroll.runs import Checkpoints, digests


KILLS = int(os.environ.get("EGGROLL_KILLS", "20"))
KINDS, WEIGHTS = (SIGKILL, SIGTERM, SIGUSR1), (3, 1, 1)
LATEST = 0.3  # seconds after a life's first step, at which it ends
ENDLESS = {"generations": 10**7, "seconds": 3600}  # if nobody ends it


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    made = Nursery(tmp_path_factory.mktemp("nursery"))
    yield made
    made.close()


def is_on(life: Life, rows: Path) -> bool:
    """Waits for the first step of a life beyond those of earlier ones."""
    before = rows.stat().st_size if rows.exists() else 500
    while not (rows.exists() and rows.stat().st_size > before):
        if life.has_ended(0.002):
            return False
    return True


def ended(life: Life, rows: Path, chance: random.Random) -> None:
    """Ends a life some time after its first step."""
    assert is_on(life, rows), life.said
    time.sleep(chance.uniform(0, LATEST))
    kind = chance.choices(KINDS, WEIGHTS)[0]
    allowed = {SIGKILL: (-SIGKILL,), SIGTERM: (-SIGTERM, 128 + SIGTERM), SIGUSR1: (1,)}
    assert life.end(kind) in allowed[kind], life.said


def figures(path: Path) -> list[dict[str, float]]:
    """What was measured, without the times."""
    rows = figures_of(runs.load(path, trust=True))
    return [{k: v for k, v in row.items() if not k.endswith("/s")} for row in rows]


def step_to_rewind_to(name: str, whole: Path, last: int, chance: random.Random) -> int:
    """Any, but where there is no log one of a checkpoint."""
    if FAMILIES[name].get("algorithm") not in UNLOGGED:
        return chance.randrange(2, last)
    return chance.choice(Checkpoints(whole / "checkpoints").steps()[1:-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_kills_change_nothing(name, tmp_path, nursery):
    if package := missing(name):
        pytest.skip(f"{package} is not installed")
    is_leaping = FAMILIES[name].get("algorithm") not in UNLOGGED
    is_leaping = is_leaping and name not in CARRYING
    made = settings(name, tmp_path) | {
        "budget": ENDLESS,
        "evaluate_every": 100,
        "checkpoint_every": 37 if is_leaping else 11,
        "keep_checkpoints": 3 if is_leaping else 10**7,
    }
    file, chance = tmp_path / "config.yaml", random.Random(name)
    file.write_text(yaml.safe_dump(made))
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    words = ["train", str(file), "--name", "killed"]
    for _ in range(KILLS):
        ended(nursery.begin(words), killed / "metrics.jsonl", chance)
        words = ["train", "--resume", str(killed)]
    last = int(figures(killed)[-1]["step"]) + 40
    budget = ["--generations", str(last)]
    nursery.run(*words, *budget)
    nursery.run("train", str(file), "--name", "whole", *budget)
    experiment = training.prepare(runs.load(whole, trust=True).config)
    like = training.initial_state(experiment)

    def state_of(path: Path) -> dict[str, str]:
        return digests(Checkpoints(path / "checkpoints").restore(like).state)

    assert state_of(killed) == state_of(whole)
    assert figures(killed) == figures(whole)
    step = str(step_to_rewind_to(name, whole, last, chance))
    for one in (whole, killed):
        nursery.run("rewind", str(one), "--step", step)
    again = tmp_path / f"killed-step-{step}"
    assert state_of(again) == state_of(tmp_path / f"whole-step-{step}")
    nursery.run("train", "--resume", str(again), *budget)
    assert state_of(again) == state_of(whole)
    assert figures(again) == figures(whole)
