"""No false alarm: of a few steps of each shipped config the doctor says nothing.

All are tried whose libraries are installed and whose checkpoints are there.
"""

import pytest
from texts import folder_of
from toyrun import train

from eggroll import UserError, runs
from eggroll.config import load, plain
from eggroll.runs import metrics
from eggroll.training import doctor, prepare
from tests.test_configs import FOLDER, RUNS, skip_if_missing


SMALL = [("population", "64"), ("task.hidden", "[32, 32]"), ("task.max_steps", "100")]
# What takes two cores longer than some minutes, small as that is, is smaller yet.
DEAR = ("ant", "humanoid", "craftax", "kinetix", "snake")
SMALLER = [
    ("population", "32"),
    ("task.hidden", "[32, 32]"),
    ("task.max_steps", "30"),
    ("task.evaluation_episodes", "16"),
    ("task.ppo.workers", "16"),
    ("task.ppo.steps", "16"),
    ("task.ppo.epochs", "2"),
    ("task.ppo.minibatches", "4"),
    # Eight devices of two cores wait for each other so long that XLA gives up.
    ("mesh.devices", "1"),
]
FEW = [
    ("generations", "12"),
    ("seconds", "null"),
    ("evaluate_every", "6"),
    ("target", "null"),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Brax System.*:UserWarning")
@pytest.mark.parametrize(("path", "algorithm"), RUNS.values(), ids=list(RUNS))
def test_nothing_is_said_of_what_is_shipped(path, algorithm, tmp_path):
    overrides = [("algorithm", algorithm), ("output", str(tmp_path)), *FEW]
    if path.parent == FOLDER / "rl/paper":
        overrides += SMALLER if path.stem.startswith(DEAR) else SMALL
    if path.parent == FOLDER / "language":
        overrides.append(("corpus", str(folder_of(tmp_path / "texts", 200))))
    config = load(path, overrides)
    try:
        experiment = prepare(config)
    except UserError as error:
        skip_if_missing(error)
    if not getattr(experiment.task, "is_there", True):
        pytest.skip("the checkpoint is not there")
    run, _ = train(config)
    outline, rows = runs.outline(run.path), metrics.read(run.metrics)
    case = doctor.Case(rows, plain(config), outline.maximise, outline.leaves)
    assert case.steps >= doctor.FEWEST
    assert doctor.findings(case) == []
