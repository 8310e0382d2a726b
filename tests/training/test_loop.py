import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from toyrun import config, figures, train

from eggroll import UserError, frozen, runs, training
from eggroll.runs import Checkpoints, metrics
from eggroll.runs.digest import digests
from eggroll.training import Progress, Stop, instantiate


@pytest.mark.parametrize("algorithm", ["eggroll", "openes", "backprop"])
def test_every_algorithm_learns(tmp_path, algorithm):
    run, outcome = train(
        config(tmp_path, f"algorithm={algorithm}", "generations=40", "population=32")
    )
    first = metrics.read(run.metrics)[0]["validation/error"]
    assert outcome.validation["error"] < first / 3
    assert outcome.stop is Stop.GENERATIONS


def test_a_run_leaves_its_settings_figures_and_checkpoints(tmp_path):
    settings = config(tmp_path, "keep_checkpoints=2")
    run, _ = train(settings)
    assert runs.load(run.path).config == settings
    assert "# jax " in (run.path / "config.yaml").read_text()
    assert Checkpoints(run.checkpoints).steps() == [10, 12]
    rows = metrics.read(run.metrics)
    assert [row["step"] for row in rows] == list(range(13))
    assert [r["step"] for r in rows if "validation/error" in r] == [0, 4, 8, 12]


def test_the_figures_are_those_that_evolution_strategies_need(tmp_path):
    run, _ = train(config(tmp_path, "algorithm=eggroll", "diagnose_every=2"))
    rows = metrics.read(run.metrics)
    assert {
        "fitness/mean",
        "fitness/best",
        "fitness/best_ever",
        "fitness/median",
        "fitness/worst",
        "fitness/spread",
        "fitness/tied",
        "fitness/nonfinite",
        "fitness/unusable",
        "shaped/effective",
        "shaped/largest",
        "gradient/norm",
        "update/ratio",
        "update/lost",
        "evaluations/s",
        "examples/s",
        "error",
    } <= rows[3].keys()
    measured = [row["step"] for row in rows if "gradient/agreement" in row]
    assert measured == [1, 3, 5, 7, 9, 11]
    assert rows[-1]["evaluations"] == 12 * 8
    assert rows[-1]["samples"] == 12 * 8 * 8


def test_the_best_member_so_far_is_that_of_all_steps_up_to_now(tmp_path):
    rows = figures(train(config(tmp_path, "algorithm=eggroll", "population=4"))[0])[1:]
    best = np.maximum.accumulate([row["fitness/best"] for row in rows])
    assert [row["fitness/best_ever"] for row in rows] == list(best)
    assert (best > [row["fitness/best"] for row in rows]).any()


def test_seconds_are_those_of_the_clock_and_training_is_a_part_of_them(
    tmp_path, monkeypatch
):
    validate = toy.Line.validate

    def slow(self, params, state, key):
        time.sleep(0.05)
        return validate(self, params, state, key)

    monkeypatch.setattr(toy.Line, "validate", slow)
    began = time.perf_counter()
    run, outcome = train(config(tmp_path, "generations=4", "evaluate_every=1"))
    took = time.perf_counter() - began
    rows, progress = metrics.read(run.metrics), outcome.progress
    seconds = [row["seconds"] for row in rows]
    assert 0 < seconds[1] < seconds[2] < seconds[3] < seconds[4] < progress.seconds
    assert 4 * 0.05 < progress.seconds < took
    assert rows[1]["compile_seconds"] < rows[1]["seconds"]
    assert rows[1]["training_seconds"] == 0
    assert 0 < progress.training_seconds < progress.seconds - 4 * 0.05


def test_a_budget_of_seconds_is_kept_with_compilation_and_validation(
    tmp_path, monkeypatch
):
    validate = toy.Line.validate

    def slow(self, params, state, key):
        time.sleep(0.2)
        return validate(self, params, state, key)

    monkeypatch.setattr(toy.Line, "validate", slow)
    _, outcome = train(config(tmp_path, "seconds=0.1", "generations=99"))
    assert outcome.stop is Stop.SECONDS
    assert int(outcome.state.step) == 1


def test_times_of_older_checkpoints_are_understood():
    facts = {"seconds": 2.0, "elapsed": 5.0, "evaluations": 3, "samples": 4.0}
    assert Progress.read(facts) == Progress(5.0, 2.0, 3, 4.0)
    assert Progress.read(dataclasses.asdict(Progress(5.0, 2.0))) == Progress(5.0, 2.0)


def test_a_directory_that_exists_is_never_written_over(tmp_path):
    paths = [runs.create(config(tmp_path)).path.name for _ in range(3)]
    assert paths == ["line", "line-2", "line-3"]


def test_an_output_that_cannot_be_written_is_refused_before_anything(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"output: .* cannot be written"):
        runs.create(config(tmp_path / "file"))


def test_fitness_that_is_nowhere_finite_stops_the_run_after_saving(tmp_path):
    with pytest.raises(UserError, match="step 6: the fitness of all 8 members is NaN"):
        train(config(tmp_path, "algorithm=eggroll", task="Broken"))
    path = tmp_path / "line"
    assert Checkpoints(path / "checkpoints").steps() == [0, 5, 6]
    assert metrics.read(path / "metrics.jsonl")[-1]["fitness/nonfinite"] == 1


def test_steps_that_learn_nothing_are_counted_and_told_once(tmp_path):
    said = []
    settings = config(tmp_path, "algorithm=eggroll", task="HalfBroken")
    run, _ = train(settings, said.append)
    rows = [row for row in metrics.read(run.metrics) if "fitness/unusable" in row]
    assert [row["fitness/unusable"] for row in rows] == [0.0] * 5 + [1.0] * 7
    assert rows[-1]["fitness/nonfinite"] == 0.5
    (warning,) = [text for text in said if "nothing was learnt" in text]
    assert warning.startswith("step 6: one member of every pair has failed")


def test_a_run_stops_at_a_step_that_learns_nothing_if_it_is_told_to(tmp_path):
    words = ("algorithm=eggroll", "unusable_steps=stop")
    with pytest.raises(UserError, match="step 6: one member of every pair has failed"):
        train(config(tmp_path, *words, task="HalfBroken"))
    assert Checkpoints(tmp_path / "line" / "checkpoints").steps() == [0, 5, 6]


def test_where_failures_rank_last_steps_with_half_of_each_pair_are_learnt_from(
    tmp_path,
):
    last = "strategy.shaping={name: ranks, failed: last}"
    settings = config(tmp_path, "algorithm=eggroll", last, task="HalfBroken")
    run, _ = train(settings)
    row = metrics.read(run.metrics)[-1]
    assert (row["fitness/unusable"], row["fitness/nonfinite"]) == (0, 0.5)
    assert row["gradient/norm"] > 0


@pytest.mark.parametrize("offset", [0.0, 2.0**40])
def test_what_is_scored_on_the_host_is_learnt_from_in_float64(tmp_path, offset):
    settings = ("algorithm=eggroll", f"offset={offset}", "generations=60")
    _, outcome = train(config(tmp_path, *settings, task="ScoredOutside"))
    assert outcome.validation["error"] < 0.5


def test_parameters_that_are_not_finite_stop_the_run_at_once_and_are_not_saved(
    tmp_path,
):
    last = r"step 7: .*not saved.*from step 5, the last good.*\(there is: 0, 5\)"
    with pytest.raises(UserError, match=last):
        train(config(tmp_path, "breaks_at=6", "generations=90", task="Broken"))
    assert Checkpoints(tmp_path / "line" / "checkpoints").steps() == [0, 5]
    assert metrics.read(tmp_path / "line" / "metrics.jsonl")[-1]["step"] == 7


def test_a_run_may_be_anchored_to_where_it_started(tmp_path):
    """Of a whole share, the last step alone is left."""
    sgd = "optimizer={name: sgd, learning_rate: 0.05, anchor: 1}"
    settings = config(tmp_path, sgd, "evaluate_every=12", "seed=1")
    run, outcome = train(settings)
    assert np.all(outcome.state.opt_state.start["w"] == 0)
    step = 0.05 * metrics.read(run.metrics)[-1]["gradient/norm"]
    length = np.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(outcome.state.params)))
    assert length == pytest.approx(step, rel=1e-5)


@pytest.mark.slow
def test_a_run_may_follow_clipup(tmp_path):
    clipup = "optimizer={name: clipup, learning_rate: 0.05, momentum: 0.8}"
    _, outcome = train(config(tmp_path, "algorithm=eggroll", clipup, "generations=60"))
    assert outcome.validation["error"] < 0.5


def test_a_target_that_is_reached_ends_the_run(tmp_path):
    _, outcome = train(config(tmp_path, "generations=400", "target=0.1"))
    assert outcome.stop is Stop.TARGET
    assert outcome.validation["error"] <= 0.1
    assert int(outcome.state.step) < 400


def test_a_target_that_only_a_lucky_validation_reached_does_not_count(
    tmp_path, monkeypatch
):
    calls = []

    def lucky(self, params, state, key):
        calls.append(key)
        return {"error": 0.0 if len(calls) == 2 else 1.0}

    monkeypatch.setattr(toy.Line, "validate", lucky)
    _, outcome = train(config(tmp_path, "target=0.5"))
    assert outcome.stop is Stop.GENERATIONS


def test_seconds_end_a_run(tmp_path):
    _, outcome = train(config(tmp_path, "generations=1000000", "seconds=0.02"))
    assert outcome.stop is Stop.SECONDS


def test_samples_end_a_run(tmp_path):
    _, whole = train(config(tmp_path, "generations=4"))
    enough = whole.progress.samples * 0.6  # reached by the third of four steps
    _, outcome = train(config(tmp_path, "generations=4", f"samples={enough}"))
    assert outcome.stop is Stop.SAMPLES
    assert int(outcome.state.step) == 3


def test_a_step_is_compiled_once(tmp_path):
    experiment = training.prepare(config(tmp_path, "algorithm=eggroll"))
    state = training.initial_state(experiment)
    for step in range(3):
        key = jax.random.key(step)
        data = experiment.task.batch(state.task, step, key)
        state, _ = experiment.algorithm.step(state, data)
    parts = experiment.algorithm.parts
    assert parts.evaluate._cache_size() == parts.learn._cache_size() == 1


@pytest.mark.slow
def test_devices_change_results_by_rounding_only(tmp_path):
    states = []
    for devices in (1, 4):
        _, outcome = train(
            config(
                tmp_path,
                "algorithm=eggroll",
                f"mesh.devices={devices}",
                task="Remembering",
            )
        )
        states.append(jax.device_get(outcome.state.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), *states)


def test_a_run_in_bfloat16_keeps_float32_masters(tmp_path):
    _, outcome = train(config(tmp_path, "precision=bfloat16"))
    assert outcome.state.params["w"].dtype == "bfloat16"
    assert any(
        leaf.dtype == "float32" for leaf in jax.tree.leaves(outcome.state.opt_state)
    )


@pytest.mark.slow
def test_nothing_is_kept_of_leaves_that_rules_freeze_and_nothing_else_changes(
    tmp_path, monkeypatch
):
    adam = "optimizer={name: adam, learning_rate: 0.05, anchor: 0.1}"
    words = ("algorithm=eggroll", "rules={b: frozen}", "precision=bfloat16", adam)
    settings = config(tmp_path, *words, "generations=4", "diagnose_every=0")
    _, outcome = train(settings)
    shapes = {jnp.shape(leaf) for leaf in jax.tree.leaves(outcome.state.opt_state)}
    assert shapes == {(), (3, 2)}
    assert np.all(outcome.state.params["b"] == 0)
    everything = instantiate.optimizer
    monkeypatch.setattr(instantiate, "optimizer", lambda c, rules: everything(c))
    _, other = train(settings)
    checks = [digests(one.state.params) for one in (outcome, other)]
    assert checks[0] == checks[1]


def test_leaves_that_rules_freeze_do_not_decay():
    rules, params = {"b": frozen}, {"w": jnp.ones(2), "b": jnp.ones(3)}
    settings = config(Path(), "optimizer={name: adamw, weight_decay: 0.5}")
    optimizer = instantiate.optimizer(settings, rules)
    grads = jax.tree.map(jnp.zeros_like, params)
    updates: Any = optimizer.update(grads, optimizer.init(params), params)[0]
    assert np.all(updates["b"] == 0)
    assert np.all(updates["w"] < 0)


def test_leaves_that_rules_freeze_do_not_follow_true_gradients_either(tmp_path):
    _, outcome = train(config(tmp_path, "algorithm=backprop", "rules={b: frozen}"))
    assert np.all(outcome.state.params["b"] == 0)
    assert np.all(outcome.state.params["w"] != 0)


def test_tensorboard_gets_the_figures_too(tmp_path):
    run, _ = train(config(tmp_path, "sinks=[tensorboard]"))
    assert list((run.path / "tensorboard").glob("events.*"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("algorithm=egroll",), r"no algorithm 'egroll': did you mean 'eggroll'\?"),
        (("algorithm=eggroll", "population=7"), "strategy: .*even"),
        (("optimizer={name: clipup, momentum: 2}",), "optimizer: momentum must be"),
        (("optimizer={name: sgd, anchor: 2}",), "optimizer.anchor: expected at most 1"),
        (("algorithm=eggroll", "rank=0"), "strategy.rank: expected at least 1"),
        (("algorithm=eggroll", "sigma=0"), "strategy.sigma: expected above 0, got 0.0"),
        (("algorithm=eggroll", "shaping=zscor"), "no shaping 'zscor'.*'zscore'"),
        (("algorithm=eggroll", "shaping={name: groups, size: 3}"), "strategy.*groups"),
        (("algorithm=eggroll", "rules={w: frosen}"), "no rule 'frosen'.*'frozen'"),
        (("algorithm=eggroll", "rules={v: frozen}"), "strategy: .*matches no leaf"),
        (("mesh.devices=9",), "mesh.devices: expected 1 to 8, as there are, got 9"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_the_run(
    tmp_path, overrides, message
):
    with pytest.raises(UserError, match=message):
        training.prepare(config(tmp_path, *overrides))


def test_backprop_needs_a_true_gradient(tmp_path, monkeypatch):
    monkeypatch.setattr(toy.Line, "differentiable", False)
    with pytest.raises(UserError, match="fitness of Line has no true gradient"):
        training.prepare(config(tmp_path))


def test_a_sink_that_is_not_installed_is_refused_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'eggroll-jax\[tensorboard\]'"):
        training.prepare(config(tmp_path, "sinks=[tensorboard]"))
