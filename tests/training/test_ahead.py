"""Steps that are begun ahead are the same steps."""

import math

import jax
import numpy as np
import pytest
import toy
from toyrun import config, figures, train

from eggroll.errors import UserError
from eggroll.runs import metrics
from eggroll.training import ahead


@pytest.fixture
def noted(monkeypatch):
    """What happens: a step is begun, or its figures are written."""
    events, batch, write = [], toy.Remembering.batch, metrics.Recorder.write

    def begun(self, state, step, key):
        if not isinstance(key, jax.core.Tracer):
            events.append(("begun", step + 1))
        return batch(self, state, step, key)

    def written(self, step, row):
        events.append(("written", step))
        write(self, step, row)

    monkeypatch.setattr(ahead, "LONGEST", math.inf)
    monkeypatch.setattr(toy.Remembering, "batch", begun)
    monkeypatch.setattr(metrics.Recorder, "write", written)
    return events


def run(folder, **more):
    words = [
        f"{name}={value}" for name, value in {"algorithm": "eggroll", **more}.items()
    ]
    return train(config(folder, *words, task="Remembering"))


def test_a_step_is_begun_before_the_last_one_is_written_unless_that_is_looked_at(
    tmp_path, noted
):
    run(tmp_path)
    order = {event: at for at, event in reversed([*enumerate(noted)])}
    early = {n for n in range(2, 13) if order["begun", n] < order["written", n - 1]}
    assert {6, 7, 8, 10, 11, 12} <= early
    assert early.isdisjoint({2, 5, 9})  # the first one compiles, and 4 and 8 validate


def test_figures_and_states_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, "LONGEST", math.inf)
    hurried, one = run(tmp_path / "hurried")
    monkeypatch.setattr(ahead, "LONGEST", 0.0)
    usual, other = run(tmp_path / "usual")
    assert figures(hurried) == figures(usual)
    for x, y in zip(
        jax.tree.leaves((one.state.params, one.state.carry)),
        jax.tree.leaves((other.state.params, other.state.carry)),
        strict=True,
    ):
        np.testing.assert_array_equal(x, y)


def test_what_fails_ahead_fails_when_it_is_due(tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, "LONGEST", math.inf)
    batch = toy.Remembering.batch

    def failing(self, state, step, key):
        if step == 6:
            raise UserError("the seventh batch is missing")
        return batch(self, state, step, key)

    monkeypatch.setattr(toy.Remembering, "batch", failing)
    with pytest.raises(UserError, match="the seventh batch is missing"):
        run(tmp_path)
    rows = metrics.read(tmp_path / "line" / "metrics.jsonl")
    assert rows[-1]["step"] == 6
