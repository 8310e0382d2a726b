"""What hangs is told of, and ended where that can be."""

import time

import pytest
import toy
from toyrun import config, interrupt_at, resume, train

from eggroll import UserError
from eggroll.runs import Checkpoints
from eggroll.runs.digest import digests
from eggroll.training import watch
from eggroll.training.watch import Watch


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(watch, "EVERY", 0.01)
    monkeypatch.setattr(watch, "PATIENCE", 0.1)


def test_it_tells_once_what_takes_long_and_where_it_is():
    said = []
    with Watch(said.append) as looking:
        with looking.over("step", 3):
            time.sleep(0.5)
        with looking.over("step", 4):
            pass
    (text,) = said
    assert text.startswith("step 3 has taken 0 s so far, in test_watch.py, line")
    assert "(test_it_tells_once_what_takes_long_and_where_it_is)" in text
    assert "Ctrl-C twice ends it" in text


def test_what_always_takes_long_is_not_told_of():
    said = []
    with Watch(said.append) as looking:
        looking._longest["step"] = 1.0
        with looking.over("step", 3):
            time.sleep(0.5)
    assert said == []


def test_an_error_that_is_swallowed_comes_again():
    tries = []

    def hang():
        while len(tries) < 3:
            try:
                time.sleep(60)
            except UserError as error:
                tries.append(error)
        raise tries[-1]

    said = (
        r"step 3 takes longer than the 0\.1 s that step_deadline allows, in .*\(hang\)"
    )
    with (
        pytest.raises(UserError, match=said),
        Watch(lambda _: None) as looking,
        looking.over("step", 3, deadline=0.1),
    ):
        hang()


def test_what_is_through_in_time_is_not_ended():
    with Watch(lambda _: None) as looking:
        for i in range(3):
            with looking.over("step", i, deadline=0.2):
                time.sleep(0.1)
        time.sleep(0.3)


@pytest.mark.slow  # as the next one
def test_a_step_that_hangs_is_ended_with_all_before_it_saved(tmp_path, monkeypatch):
    _, whole = train(config(tmp_path / "whole"))
    interrupt_at(monkeypatch, "Line", 7, lambda: time.sleep(600))
    with pytest.raises(UserError, match=r"step 8 takes longer.*\(<lambda>\): mend"):
        train(config(tmp_path, "step_deadline=1"))
    assert Checkpoints(tmp_path / "line" / "checkpoints").steps() == [0, 5, 7]
    assert digests(resume(tmp_path / "line").state) == digests(whole.state)


def test_a_score_that_hangs_is_ended_with_all_before_it_saved(tmp_path, monkeypatch):
    settings = ("algorithm=eggroll", "step_deadline=1")
    score, scored = toy.ScoredOutside.score, []

    def hangs_once(self, aux, data):
        scored.append(aux)
        if len(scored) == 8:
            while True:  # as a reward that waits for a service
                time.sleep(0.01)
        return score(self, aux, data)

    hanging = config(tmp_path, *settings, task="ScoredOutside")
    with monkeypatch.context() as patch:
        patch.setattr(toy.ScoredOutside, "score", hangs_once)
        with pytest.raises(UserError, match=r"step 8 takes longer.*\(hangs_once\)"):
            train(hanging)
    assert Checkpoints(tmp_path / "line" / "checkpoints").steps()[-1] == 7
    again = config(tmp_path / "whole", *settings, task="ScoredOutside")
    _, whole = train(again)
    assert digests(resume(tmp_path / "line").state) == digests(whole.state)
