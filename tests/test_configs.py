"""Every config is built and traced, for each of its algorithms."""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from texts import folder_of

from eggroll import UserError
from eggroll.config import load
from eggroll.training import instantiate, prepare
from eggroll.training.algorithms import ALGORITHMS


FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted(FOLDER.rglob("*.yaml"))
each_config = pytest.mark.parametrize(
    "path", CONFIGS, ids=[str(path.relative_to(FOLDER)) for path in CONFIGS]
)


def algorithms_of(path):
    """The algorithm of a config, and those for which it has settings."""
    tree = yaml.safe_load(path.read_text())
    return [tree.get("algorithm", "eggroll"), *tree.get("algorithms", {})]


RUNS = {
    f"{path.relative_to(FOLDER)}, {algorithm}": (path, algorithm)
    for path in CONFIGS
    for algorithm in algorithms_of(path)
}
each_run = pytest.mark.parametrize(("path", "algorithm"), RUNS.values(), ids=list(RUNS))


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    """By folder, what has to be another here: texts, which are not downloaded."""
    texts = folder_of(tmp_path_factory.mktemp("corpus") / "texts", 200)
    return {"language": [("corpus", str(texts))]}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EGGROLL_CACHE", str(tmp_path / "cache"))


# What is said of a library that is missing: its module, and how to get it.
MISSING = (
    r"needs the package '(\w+)'.*(eggroll-jax\[[\w-]+\])",
    r"needs (Kinetix).*(docs/kinetix.md)",
    r"(MuJoCo) is not installed.*(gymnasium\[mujoco\])",
)


def skip_if_missing(error):
    """Skips where a library is not installed, if it is not; by the name to install."""
    for pattern in MISSING:
        named = re.search(pattern, str(error))
        if named and importlib.util.find_spec(named[1].lower()) is None:
            pytest.skip(f"{named[1]} is not installed: {named[2]}")
    raise error


@each_run
def test_the_settings_are_understood_even_without_the_library(path, algorithm):
    config = load(path, [("algorithm", algorithm)])
    instantiate.optimizer(config)
    instantiate.strategy(config, rank=config.strategy.rank)
    module, _, name = config.task.path.partition(":")
    task = getattr(importlib.import_module(module), name)
    assert algorithm in {*ALGORITHMS, *task.algorithms}


@each_run
@pytest.mark.filterwarnings("ignore:Brax System.*:UserWarning")
def test_a_config_is_built_and_traced(path, algorithm, changes):
    overrides = [("algorithm", algorithm), *changes.get(path.parent.name, [])]
    config = load(path, overrides)
    try:
        experiment = prepare(config)
    except UserError as error:
        skip_if_missing(error)
    assert experiment.config.algorithm == algorithm
    assert experiment.algorithm.members > 0


def test_an_algorithm_that_there_is_not_is_refused_like_any_mistake(tmp_path):
    text = (FOLDER / "supervised/regression.yaml").read_text()
    path = tmp_path / "regression.yaml"
    path.write_text(text.replace("backprop:", "bakcprop:"))
    assert algorithms_of(path) == ["eggroll", "bakcprop"]
    with pytest.raises(UserError, match="did you mean 'backprop'"):
        prepare(load(path, [("algorithm", "bakcprop")]))


def test_only_a_library_that_is_missing_is_an_excuse():
    with pytest.raises(UserError, match="no such setting"):
        skip_if_missing(UserError("no such setting"))
    installed = "This environment needs the package 'jax', ...: 'eggroll-jax[rl]'"
    with pytest.raises(UserError, match="needs the package"):
        skip_if_missing(UserError(installed))


@each_config
def test_the_header_names_the_command_that_runs_it(path):
    header = path.read_text().split("task:")[0]
    assert f"eggroll train configs/{path.relative_to(FOLDER)}" in header


def test_published_sgd_settings_take_the_published_step():
    """Their step is lr sqrt(N) mean(s sigma E), ours is rate mean(s E) / sigma."""
    config = load(FOLDER / "rl/paper/cartpole.yaml", [])
    rate, sigma = config.optimizer.learning_rate, config.strategy.sigma
    assert rate.start / sigma.start == pytest.approx(0.1 * 2048**0.5 * 0.2, rel=1e-4)
    ratio = 0.9995 * 0.999**2  # both schedules lower it from step to step
    assert rate.end is not None
    assert rate.steps is not None
    assert rate.end / rate.start == pytest.approx(ratio**rate.steps, rel=1e-3)


@pytest.mark.parametrize("path", sorted((FOLDER / "rl/paper").glob("*.yaml")))
def test_the_paper_s_network_and_rewards_are_those_of_its_appendix(path):
    for algorithm in ("eggroll", "ppo"):
        options = load(path, [("algorithm", algorithm)]).task.options
        assert (options["network"], options["hidden"]) == ("paper", (256,) * 3)
        assert not options["ppo"].normalise_rewards
