"""Large states are written over, step by step; the steps are the same."""

import jax
import numpy as np
import pytest
import toy
from toyrun import config, figures, interrupt_at, resume, train

from eggroll import training
from eggroll.runs.checkpoint import Checkpoints
from eggroll.training import donation
from eggroll.training.experiment import writes_over


WAYS = {
    "evolution": ("Remembering", "algorithm=eggroll"),
    "master weights": ("Remembering", "algorithm=eggroll", "precision=bfloat16"),
    "scored on the host": ("ScoredOutside", "algorithm=eggroll"),
    "a sigma that adapts": (
        "Line",
        "algorithm=eggroll",
        "strategy.sigma_adaptation={name: spread_target}",
    ),
    "gradients": ("Line", "algorithm=backprop"),
}


@pytest.fixture
def large(monkeypatch):
    """All but scalars and their like count as large."""
    monkeypatch.setattr(donation, "WORTH", 0)
    monkeypatch.setattr(donation, "LEAF", 8)


@pytest.mark.parametrize("way", WAYS)
def test_steps_are_the_same(way, tmp_path, request):
    task, *words = WAYS[way]
    usual, one = train(config(tmp_path / "usual", *words, task=task))
    request.getfixturevalue("large")
    settings = config(tmp_path / "over", *words, task=task)
    assert writes_over(training.prepare(settings))
    over, other = train(settings)
    assert figures(over) == figures(usual)
    for x, y in zip(
        jax.tree.leaves((one.state.params, one.state.opt_state)),
        jax.tree.leaves((other.state.params, other.state.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(x, y)


def test_the_state_before_is_gone_and_small_arrays_are_not(tmp_path, large):
    experiment = training.prepare(config(tmp_path, "algorithm=eggroll"))
    parts, state = experiment.algorithm.parts, training.initial_state(experiment)
    found = parts.evaluate(state, experiment.task.batch(state.task, 0, state.key))
    after, _ = parts.learn_over(state, found)
    assert state.params["w"].is_deleted()
    assert donation.is_gone(state)
    assert not state.step.is_deleted()
    assert not donation.is_gone(after)


def test_a_checkpoint_is_of_its_step_whatever_comes_after(tmp_path, large):
    words = ("checkpoint_every=1", "keep_checkpoints=12")
    run, _ = train(config(tmp_path / "over", *words))
    settings = config(tmp_path / "short", "budget.generations=7")
    _, short = train(settings)
    like = training.initial_state(training.prepare(settings))
    saved = Checkpoints(run.checkpoints, keep=12).restore(like, 7)
    jax.tree.map(np.testing.assert_array_equal, saved.state.params, short.state.params)


def test_a_failure_amid_a_step_loses_none_before_it(tmp_path, large, monkeypatch):
    words = ("algorithm=eggroll",)
    _, whole = train(config(tmp_path / "whole", *words))

    def fail():
        raise RuntimeError("no memory")

    interrupt_at(monkeypatch, "Line", 8, fail)
    settings = config(tmp_path / "failed", *words)
    with pytest.raises(RuntimeError, match="no memory"):
        train(settings)
    outcome = resume(tmp_path / "failed" / "line")
    jax.tree.map(
        np.testing.assert_array_equal, outcome.state.params, whole.state.params
    )


def test_what_a_task_has_at_hand_stays(tmp_path, large, monkeypatch):
    pretrained = toy.Line().init(jax.random.key(0))
    monkeypatch.setattr(toy.Line, "init", lambda self, key: pretrained)
    train(config(tmp_path))
    assert not any(x.is_deleted() for x in jax.tree.leaves(pretrained))


def test_small_states_are_left_alone(tmp_path):
    assert not writes_over(training.prepare(config(tmp_path)))


def test_the_memory_of_a_step_is_less_by_what_is_written_over(tmp_path, request):
    words = ("algorithm=eggroll", "task.inputs=4096", "task.outputs=64")
    settings = config(tmp_path, *words)
    before = training.memory(training.prepare(settings))
    request.getfixturevalue("large")
    after = training.memory(training.prepare(settings))
    state = 3 * 4 * (4096 + 1) * 64  # parameters and Adam's two moments
    assert before.results - after.results == pytest.approx(state, rel=0.01)
