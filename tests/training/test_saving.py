"""Checkpoints that are written while the training goes on."""

import threading

import pytest
import toy
from toyrun import config, train

from eggroll import UserError
from eggroll.runs import Checkpoints, digests
from eggroll.training import saving


def test_the_loop_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    _, outcome = train(config(tmp_path / "whole", "generations=9"))
    save, batch, later = Checkpoints.save, toy.Line.batch, threading.Event()

    def slow(self, step, state, facts, **options):
        assert step != 5 or later.wait(30), "step 8 waits for the writing of step 5"
        return save(self, step, state, facts, **options)

    def seen(self, state, step, key):
        if step == 8:
            later.set()
        return batch(self, state, step, key)

    monkeypatch.setattr(Checkpoints, "save", slow)
    monkeypatch.setattr(toy.Line, "batch", seen)
    run, found = train(config(tmp_path, "generations=9"))
    checkpoints = Checkpoints(run.checkpoints)
    assert checkpoints.steps() == [0, 5, 9]
    assert digests(found.state) == digests(outcome.state)
    assert int(checkpoints.restore(found.state, step=5).state.step) == 5


def test_what_the_writer_meets_stops_the_run_at_a_later_step(tmp_path, monkeypatch):
    save, failed, steps = Checkpoints.save, threading.Event(), []

    def full(self, step, state, facts, **options):
        if step == 5:
            failed.set()
            raise UserError("the checkpoint of step 5 cannot be written: disk full")
        return save(self, step, state, facts, **options)

    def seen(self, state, step, key):
        steps.append(step)
        if step == 7:
            failed.wait(30)
        return batch(self, state, step, key)

    batch = toy.Line.batch
    monkeypatch.setattr(Checkpoints, "save", full)
    monkeypatch.setattr(toy.Line, "batch", seen)
    many = "checkpoint_every=5", "generations=1000000", "evaluate_every=1000000"
    with pytest.raises(UserError, match="step 5 cannot be written: disk full"):
        train(config(tmp_path, *many))
    assert max(steps) < 1000
    assert Checkpoints(tmp_path / "line" / "checkpoints").steps()[0] == 0


def test_the_best_checkpoint_stays_beside_the_newest(tmp_path, monkeypatch):
    errors = iter([9.0, 3.0, 1.0, 2.0, 5.0, 4.0])
    validate = lambda self, params, state, key: {"error": next(errors)}
    monkeypatch.setattr(toy.Line, "validate", validate)
    every = "evaluate_every=2", "checkpoint_every=2", "generations=10"
    run, _ = train(config(tmp_path, *every, "keep_checkpoints=2"))
    assert Checkpoints(run.checkpoints).steps() == [4, 8, 10]
    errors = iter([9.0, 3.0, 1.0, 2.0, 5.0, 4.0])
    few = "keep_checkpoints=2", "keep_best=false"
    run, _ = train(config(tmp_path, *every, *few))
    assert Checkpoints(run.checkpoints).steps() == [8, 10]


def test_checkpoints_come_by_the_clock_too(tmp_path):
    often = "checkpoint_every=1000", "checkpoint_seconds=1e-6", "keep_checkpoints=99"
    run, _ = train(config(tmp_path, *often, "generations=4"))
    assert Checkpoints(run.checkpoints).steps() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("patience", "steps"), [(0, [0, 2, 4, 5]), (1e9, [0, 5])])
def test_by_default_checkpoints_are_as_rare_as_they_are_dear(
    patience, steps, tmp_path, monkeypatch
):
    monkeypatch.setattr(saving, "EVERY", 2)
    monkeypatch.setattr(saving, "PATIENCE", patience)
    every = "checkpoint_every=null", "keep_checkpoints=99"
    run, _ = train(config(tmp_path, *every, "generations=5"))
    assert Checkpoints(run.checkpoints).steps() == steps
