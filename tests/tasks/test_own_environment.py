"""The example of docs/own-environment.md, executed as it stands there."""

import re
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml


DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "own-environment.md"


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def hover(monkeypatch) -> types.ModuleType:
    module = types.ModuleType("hover")
    monkeypatch.setitem(sys.modules, "hover", module)
    exec(block("python"), vars(module))
    return module


def test_the_example_has_forty_lines_or_fewer():
    lines = [line for line in block("python").splitlines() if line.strip()]
    assert len(lines) <= 40


@pytest.mark.slow
def test_the_example_trains_from_its_config(hover, tmp_path):
    from eggroll import runs, training
    from eggroll.config import load

    config = tmp_path / "hover.yaml"
    config.write_text(block("yaml"))
    loaded = load(config, [("output", str(tmp_path))], name="hover")
    prepared = training.prepare(loaded)
    outcome = training.train(prepared, runs.create(loaded))
    task, key = prepared.task, jax.random.key(0)
    start = task.validate(task.init(key), task.initial_state(), key)["return"]
    assert outcome.validation["return"] > max(70, start)


def test_the_config_names_fields_that_exist(hover):
    options = yaml.safe_load(block("yaml"))["task"]["environment_options"]
    environment = hover.Hover(**options)
    state, observation = environment.reset(jax.random.key(0))
    assert observation.shape == environment.observation_shape
    _, _, reward, ended = environment.step(state, np.ones(1), jax.random.key(1))
    assert 0 < reward <= 1
    assert not ended
