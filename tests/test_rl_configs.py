"""Every config of a control run can be read, for each of its algorithms."""

from pathlib import Path

import pytest

from eggroll import build, settings


FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted([*FOLDER.glob("rl/**/*.yaml"), *FOLDER.glob("supervised/*.yaml")])
each_config = pytest.mark.parametrize(
    "path", CONFIGS, ids=[str(path.relative_to(FOLDER)) for path in CONFIGS]
)


@each_config
@pytest.mark.parametrize("algorithm", ["eggroll", "openes", "ppo", "backprop"])
def test_the_settings_are_understood(path, algorithm):
    config = settings.load(path, [("algorithm", algorithm)])
    build.optimizer(config)
    build.strategy(config, rank=config.strategy.rank)


@each_config
def test_the_header_names_the_command_that_runs_it(path):
    header = path.read_text().split("task:")[0]
    assert f"eggroll train configs/{path.relative_to(FOLDER)}" in header


def test_published_sgd_settings_take_the_published_step():
    """Their step is lr sqrt(N) mean(s sigma E), ours is rate mean(s E) / sigma."""
    config = settings.load(FOLDER / "rl/paper/cartpole.yaml", [])
    rate, sigma = config.optimizer.learning_rate, config.strategy.sigma
    assert rate.start / sigma.start == pytest.approx(0.1 * 2048**0.5 * 0.2, rel=1e-4)
    ratio = 0.9995 * 0.999**2  # both schedules lower it from step to step
    assert rate.end is not None
    assert rate.steps is not None
    assert rate.end / rate.start == pytest.approx(ratio**rate.steps, rel=1e-3)
