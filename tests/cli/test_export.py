"""`eggroll export`: what was learnt, and a member of it, for others to read."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
import toy
import toyrun

from eggroll import training
from eggroll.cli.main import main
from eggroll.runs import Checkpoints
from models.llm import safetensors


SETTINGS = ("algorithm=eggroll", "budget.generations=3", "checkpoint_every=2")


@dataclasses.dataclass(frozen=True)
class Exporting(toy.Line):
    """`Line` that writes what it is asked for as text."""

    def export(self, wanted):
        asked = wanted._replace(start=wanted.start(), directory="")
        (wanted.directory / "asked.txt").write_text(str(asked.rank))
        self.seen.append(asked)
        return [f"as {wanted.format}"]


Exporting.seen = []


def trained(output, task="Line", *overrides):
    settings = toyrun.config(output, *SETTINGS, *overrides, task=task)
    run, _ = toyrun.train(settings)
    return run


def state_of(run, step):
    experiment = training.prepare(run.config)
    like = training.initial_state(experiment)
    return experiment, Checkpoints(run.checkpoints).restore(like, step).state


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def exporting(tmp_path_factory):
    toy.Exporting = Exporting
    yield trained(tmp_path_factory.mktemp("runs"), "Exporting")
    del toy.Exporting


def export(run, *words):
    return main(["export", str(run.path), *map(str, words)])


def test_any_run_is_exported_as_arrays_by_name(line, tmp_path, capsys):
    assert export(line, "--format", "safetensors") == 0
    path = line.path / "exports" / "step-3-safetensors"
    assert f"{line.path} at step 3: {path}" in capsys.readouterr().out
    words = ("--format", "safetensors", "--step", 2, "--output", tmp_path / "mine")
    assert export(line, *words) == 0
    for step, directory in ((3, path), (2, tmp_path / "mine")):
        found = safetensors.read(directory / "params.safetensors")
        expected = state_of(line, step)[1].params
        assert found.keys() == expected.keys()
        jax.tree.map(np.testing.assert_array_equal, found, {**expected})


def test_a_member_is_the_one_that_is_evaluated_at_that_step(line, tmp_path):
    words = ("--format", "safetensors", "--step", 2, "--output", tmp_path / "five")
    assert export(line, *words, "--member", 5) == 0
    found = safetensors.read(tmp_path / "five" / "params.safetensors")
    experiment, state = state_of(line, 2)
    halves = training.evolution(experiment.task, line.config, rank=1)
    data = experiment.task.batch((), 2, jax.random.key(0))
    (fitness, *_), generation = quick.jit(halves.ask)(state, data)
    one, _, _ = experiment.task.evaluate(found, data, (), None)
    assert one == pytest.approx(float(fitness[5]), rel=1e-5)
    strategy, drawn = training.generation_of(experiment, state)
    expected = strategy.member(generation, state.params, 5)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert drawn.plan == generation.plan


def test_sigma_is_what_it_has_adapted_to(tmp_path):
    settings = ("algorithm=eggroll", "strategy.sigma_adaptation=spread_target")
    experiment = training.prepare(toyrun.config(tmp_path, *settings))
    state = training.initial_state(experiment)
    kept = state.opt_state
    adapted = kept._replace(sigma=kept.sigma._replace(sigma=jnp.float32(0.125)))
    state = state._replace(opt_state=adapted)
    assert training.generation_of(experiment, state)[1].sigma == 0.125


def test_a_task_that_can_export_is_asked_for_all_formats(exporting, tmp_path, capsys):
    words = ("--format", "lora", "--output", tmp_path / "a", "--rank", 3)
    assert export(exporting, *words) == 0
    assert "as lora" in capsys.readouterr().out
    assert (tmp_path / "a" / "asked.txt").read_text() == "3"
    words = ("--format", "safetensors", "--output", tmp_path / "b", "--member", 1)
    assert export(exporting, *words) == 0
    whole, member = Exporting.seen[-2:]
    assert whole.factors is None
    assert (whole.format, member.format) == ("lora", "safetensors")
    assert not any(jnp.any(x) for x in whole.start.values())  # where it started
    for name, one in member.factors.items():
        np.testing.assert_array_equal(
            whole.params[name] + one.written, member.params[name]
        )


def test_what_a_task_refuses_leaves_nothing(exporting, tmp_path, capsys, monkeypatch):
    def refuse(self, wanted):
        (wanted.directory / "half.txt").write_text("")
        raise ValueError("norms cannot be held: freeze them")

    monkeypatch.setattr(Exporting, "export", refuse)
    assert export(exporting, "--format", "lora", "--output", tmp_path / "a") == 2
    assert capsys.readouterr().err == (
        "eggroll: --format lora: norms cannot be held: freeze them\n"
    )
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--format", "hf"), "the task Line has no hf to write: --format safetensors"),
        (("--format", "lora", "--rank", 0), "--rank: a positive number"),
        (("--format", "hf", "--rank", 2), "--rank: .* for --format lora"),
        (
            ("--format", "safetensors", "--member", 8),
            "--member: index .* 0 to 7, got 8",
        ),
        (("--format", "safetensors", "--step", 9), "no checkpoint of step 9"),
        (("--format", "safetensors", "--output", "."), "--output: . exists already"),
    ],
)
def test_mistakes_are_told_in_one_line(line, words, message, capsys):
    assert export(line, *words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(message, said)


def test_nothing_is_written_over(line, tmp_path, capsys):
    words = ("--format", "safetensors", "--output", tmp_path / "a")
    assert export(line, *words) == 0
    assert export(line, *words) == 2
    assert "exists already" in capsys.readouterr().err


def test_runs_without_members_say_so(tmp_path, capsys):
    run, _ = toyrun.train(toyrun.config(tmp_path, "budget.generations=2"))
    assert export(run, "--format", "safetensors", "--member", 0) == 2
    said = capsys.readouterr().err
    assert "'backprop' has no members that could be drawn again" in said
