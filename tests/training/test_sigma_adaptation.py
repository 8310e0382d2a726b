"""Sigma that adapts, as a setting of runs."""

import jax.numpy as jnp
import numpy as np
import pytest
import toy
from toyrun import config, figures, interrupt_at, resume, train

from eggroll import UserError, runs, training
from eggroll.config import plain
from eggroll.evolution.adaptation import one_fifth_success, spread_target
from eggroll.runs import Checkpoints
from eggroll.runs.checkpoint import digests


RULE = "strategy.sigma_adaptation"
WIDE = f"{RULE}={{name: spread_target, rate: 0.2, highest: 2.0}}"
CENTRED = "Remembering", "eggroll", f"{RULE}=one_fifth_success"
ON_THE_HOST = "ScoredOutside", "openes", f"{RULE}=one_fifth_success"


class Killed(BaseException):
    pass


def kill():
    raise Killed


@pytest.mark.parametrize(
    ("task", "algorithm", "rule"),
    [
        pytest.param(*CENTRED, id="with a centre", marks=pytest.mark.slow),
        pytest.param(*ON_THE_HOST, id="scored on the host", marks=pytest.mark.slow),
        pytest.param(
            "ScoredOutside", "eggroll", WIDE, id="with options", marks=pytest.mark.slow
        ),
    ],
)
def test_a_resumed_run_equals_one_that_never_stopped_bit_for_bit(
    tmp_path, monkeypatch, task, algorithm, rule
):
    settings = (f"algorithm={algorithm}", rule)
    whole, outcome = train(config(tmp_path / "whole", *settings, task=task))
    interrupt_at(monkeypatch, task, 7, kill)
    with pytest.raises(Killed):
        train(config(tmp_path / "stopped", *settings, task=task))
    stopped = tmp_path / "stopped" / "line"
    assert Checkpoints(stopped / "checkpoints").steps() == [0, 5]
    resumed = resume(stopped)
    assert digests(resumed.state) == digests(outcome.state)
    assert figures(runs.load(stopped)) == figures(whole)
    sigmas = [row["sigma"] for row in figures(whole) if "sigma" in row]
    assert len(sigmas) == 12
    assert sigmas[0] == np.float32(0.05)
    assert len({*sigmas}) > 6
    assert resumed.state.opt_state.sigma.sigma not in sigmas  # of the step to come


@pytest.mark.slow
def test_the_sigma_of_the_state_is_the_one_that_members_are_perturbed_with(tmp_path):
    settings = config(tmp_path, "algorithm=openes", WIDE)
    experiment = training.prepare(settings)
    state = training.initial_state(experiment)
    task = experiment.task
    halves = training.evolution(task, settings, rank=None)
    data = task.batch(state.task, 0, state.key)
    doubled = state.opt_state.sigma._replace(sigma=jnp.float32(0.1))
    wider = state._replace(opt_state=state.opt_state._replace(sigma=doubled))
    for one in (state, wider):
        (fitness, carry, aux), generation = halves.ask(one, data)
        assert generation.sigma == one.opt_state.sigma.sigma
        new, row = halves.learn(one, generation, fitness, carry, aux)
        assert row["sigma"] == generation.sigma
        rule = spread_target(0.05, rate=0.2, highest=2.0)
        expected, _ = rule.update(one.opt_state.sigma, fitness)
        np.testing.assert_allclose(new.opt_state.sigma.sigma, expected.sigma, 1e-6)


@pytest.mark.slow
def test_the_centre_is_the_fitness_of_the_parameters_on_the_data_of_the_step(tmp_path):
    settings = config(tmp_path, "algorithm=eggroll", f"{RULE}=one_fifth_success")
    experiment = training.prepare(settings)
    state = training.initial_state(experiment)
    task = experiment.task
    data = task.batch(state.task, 0, state.key)
    halves = training.evolution(task, settings, rank=1)
    (fitness, *_), _ = halves.ask(state, data)
    centre, *_ = task.evaluate(state.params, data, (), state.key)
    expected, _ = one_fifth_success(0.05).update(
        state.opt_state.sigma, fitness, centre=centre
    )
    new, _ = experiment.algorithm.step(state, data)
    assert expected.sigma != np.float32(0.05)
    np.testing.assert_allclose(new.opt_state.sigma.sigma, expected.sigma, 1e-6)
    assert new.opt_state.sigma.reference == jnp.inf  # nothing is kept of the members


def test_members_with_data_of_their_own_have_no_centre(tmp_path):
    settings = ("algorithm=eggroll", f"{RULE}=one_fifth_success", "generations=2")
    _, outcome = train(config(tmp_path, *settings, task="HalfBroken"))
    assert np.isfinite(outcome.state.opt_state.sigma.reference)


def test_a_run_with_a_fixed_sigma_keeps_nothing_for_it(tmp_path):
    run, outcome = train(config(tmp_path, "algorithm=eggroll", "generations=1"))
    assert not any("sigma" in name for name in digests(outcome.state))
    assert not any("sigma" in row for row in figures(run))


def test_a_rule_with_its_options_is_written_back_as_it_was_read(tmp_path):
    settings = config(tmp_path, "algorithm=eggroll", WIDE)
    run = runs.create(settings)
    assert runs.load(run.path).config == settings
    written = plain(settings)["strategy"]["sigma_adaptation"]
    assert written == {"name": "spread_target", "rate": 0.2, "highest": 2.0}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"{RULE}=one_fith"], "no rule for sigma 'one_fith': .*'one_fifth_success'"),
        ([f"{RULE}={{name: spread_target, rat: 1}}"], r"sigma_adaptation.rat'.*rate"),
        ([f"{RULE}={{name: spread_target, rate: a}}"], "rate: expected a number"),
        ([f"{RULE}={{name: spread_target, rate: 7}}"], f"{RULE}: rate must be above 0"),
        ([f"{RULE}={{name: spread_target, lowest: 1}}"], "expected lowest <= sigma"),
        ([f"{RULE}={{name: spread_target, lowest: a}}"], "lowest must be positive"),
        ([f"{RULE}={{name: spread_target, sigma: 1}}"], r"starts from strategy\.sigma"),
        ([f"{RULE}=Adaptation"], "no rule for sigma 'Adaptation'"),
        ([f"{RULE}=spread_target", "antithetic=false"], "set strategy.antithetic to"),
        (
            [
                f"{RULE}=spread_target",
                "sigma={start: 1, end: 2, steps: 3, kind: linear}",
            ],
            "'spread_target' adapts it, so that it must be one number .* 'linear'",
        ),
    ],
)
def test_rules_that_cannot_work_are_refused_before_the_run(
    tmp_path, overrides, message
):
    with pytest.raises(UserError, match=message):
        training.prepare(config(tmp_path, "algorithm=eggroll", *overrides))


def test_an_algorithm_without_a_sigma_that_could_adapt_refuses_it(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(toy.Line, "algorithms", {"other": None})
    for algorithm in ("backprop", "other"):
        settings = config(tmp_path, f"algorithm={algorithm}", f"{RULE}=spread_target")
        message = f"'{algorithm}' has no sigma that could adapt; there is eggroll and"
        with pytest.raises(UserError, match=message):
            training.prepare(settings)
