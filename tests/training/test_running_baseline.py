"""A running baseline, as a setting of runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
import toy
from toyrun import config, figures, interrupt_at, resume, train

from eggroll import UserError, runs, training
from eggroll.config import plain
from eggroll.evolution import shaping
from eggroll.evolution.baseline import against, baseline_update
from eggroll.runs.digest import digests
from eggroll.training import instantiate


RULE = "strategy.baseline={half_life: 3}"
CENTRE = "shaping=centre"


class Killed(BaseException):
    pass


def kill():
    raise Killed


@pytest.mark.parametrize(
    ("task", "more"),
    [
        pytest.param(
            "Remembering",
            ("strategy.sigma_adaptation=spread_target",),
            marks=pytest.mark.slow,
        ),
        pytest.param("ScoredOutside", (), marks=pytest.mark.slow),
    ],
    ids=["with a sigma that adapts", "scored on the host"],
)
def test_a_resumed_run_equals_one_that_never_stopped_bit_for_bit(
    tmp_path, monkeypatch, task, more
):
    settings = ("algorithm=eggroll", RULE, CENTRE, *more)
    whole, outcome = train(config(tmp_path / "whole", *settings, task=task))
    interrupt_at(monkeypatch, task, 7, kill)
    with pytest.raises(Killed):
        train(config(tmp_path / "stopped", *settings, task=task))
    stopped = tmp_path / "stopped" / "line"
    resumed = resume(stopped)
    assert digests(resumed.state) == digests(outcome.state)
    rows = figures(whole)
    assert figures(runs.load(stopped)) == rows
    assert rows[1]["baseline/mean"] == pytest.approx(rows[1]["fitness/mean"], 1e-5)
    assert rows[1]["baseline/spread"] == pytest.approx(rows[1]["fitness/spread"], 1e-5)


@pytest.mark.slow
def test_members_are_weighed_by_what_they_deviate_from_the_baseline(tmp_path):
    settings = config(tmp_path, "algorithm=eggroll", RULE, CENTRE, "optimizer=sgd")
    experiment = training.prepare(settings)
    task, state = experiment.task, training.initial_state(experiment)
    halves = training.evolution(task, settings, rank=1)
    strategy = instantiate.strategy(settings, rank=1)
    baseline = state.opt_state.baseline
    ask, combine = quick.jit(halves.ask), quick.jit(strategy.combine)
    for step in range(2):
        data = task.batch(state.task, step, state.key)
        (fitness, carry, aux), generation = ask(state, data)
        baseline = baseline_update(baseline, fitness, 3)
        weights = shaping.centre(against(baseline, fitness))
        grads = combine(generation, weights)
        new, row = halves.learn(state, generation, fitness, carry, aux)
        jax.tree.map(
            lambda x, y, g: np.testing.assert_allclose(x, y - 0.05 * g, atol=1e-6),
            *(new.params, state.params, grads),
        )
        assert row["fitness/mean"] == jnp.mean(fitness)  # raw
        state = new


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([RULE], "'zscore' forgets by how much members differ.*centre or none"),
        ([RULE, "shaping={name: groups, size: 2}"], "'groups' forgets"),
        (
            ["strategy.baseline={half_life: 0}", CENTRE],
            "half_life: expected above 0, got 0",
        ),
        (["strategy.baseline={half: 1}", CENTRE], "baseline.half'.*half_life"),
    ],
)
def test_a_baseline_that_cannot_work_is_refused_before_the_run(
    tmp_path, overrides, message
):
    with pytest.raises(UserError, match=message):
        training.prepare(config(tmp_path, "algorithm=eggroll", *overrides))


def test_shapings_that_divide_by_nothing_and_their_settings_are_kept(tmp_path):
    groups = "shaping={name: groups, size: 2, spread: none}"
    settings = config(tmp_path, "algorithm=eggroll", RULE, groups)
    assert plain(settings)["strategy"]["baseline"] == {"half_life": 3}
    assert runs.load(runs.create(settings).path).config == settings


def test_an_algorithm_without_members_to_weigh_refuses_it(tmp_path, monkeypatch):
    monkeypatch.setattr(toy.Line, "algorithms", {"other": None})
    for algorithm in ("backprop", "other"):
        settings = config(tmp_path, f"algorithm={algorithm}", RULE, CENTRE)
        with pytest.raises(UserError, match=f"'{algorithm}' weighs no members.*openes"):
            training.prepare(settings)
