"""`mesh.update: auto` becomes the way that costs least by the rates of this machine."""

import jax
import pytest
import toyrun

from eggroll import training
from eggroll.evolution.costs import Rates
from eggroll.training import update_choice


pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")
SLOW_LINKS = Rates(flops=1e12, values=1e12, links=1e3)
SLOW_DRAWS = Rates(flops=1e12, values=1e3, links=1e12)


def settings(path, devices=8):
    size = ("task.inputs=64", "task.outputs=32")  # more weights than members
    words = (*size, f"mesh.devices={devices}", "mesh.update=auto", "population=16")
    return toyrun.config(path, "algorithm=eggroll", *words)


@pytest.mark.parametrize(
    ("rates", "ways"), [(SLOW_LINKS, {"replay"}), (SLOW_DRAWS, {"reduce", "scatter"})]
)
def test_what_is_slow_is_spared(tmp_path, monkeypatch, rates, ways):
    monkeypatch.setattr(update_choice, "measured", lambda mesh: rates)
    said = []
    config = update_choice.chosen(settings(tmp_path), said.append)
    assert config.mesh.update in ways
    assert said[0].startswith(f"mesh.update: {config.mesh.update}, as ")
    assert "measured: flops" in said[0]


def test_on_one_device_there_is_nothing_to_choose(tmp_path):
    config = update_choice.chosen(settings(tmp_path, 1), lambda _: None)
    assert config.mesh.update == "reduce"


def test_a_choice_that_was_made_stays(tmp_path):
    config = toyrun.config(tmp_path, "mesh.update=replay")
    assert update_choice.chosen(config, lambda _: None) is config


def test_the_rates_of_this_machine_are_positive(tmp_path):
    mesh = training.instantiate.mesh(settings(tmp_path, 2))
    assert all(rate > 1e3 for rate in update_choice.measured(mesh)[:3])
