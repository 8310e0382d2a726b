import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from texts import folder_of

from eggroll import UserError, check_task
from eggroll.cli.main import main
from eggroll.config import plain, resolve, yamlfile
from eggroll.config.schema import MeshConfig
from eggroll.runs import metrics
from eggroll.training import (
    Experiment,
    Stepping,
    find,
    initial_state,
    instantiate,
)
from eggroll.training.integer import strategy_of
from models.egg import Egg
from tasks.language import Language
from tasks.language.diagnostics import saturation_of, weights_of
from tasks.language.plot import draw


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EGGROLL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    return str(folder_of(tmp_path / "texts"))


# ---------------------------------------------------------------------------- task


def language(folder, **changes):
    sizes = dict(lanes=4, tokens=8, layers=1, width=16, validation_lanes=4)
    return Language(corpus=folder, **{**sizes, **changes})


@pytest.mark.parametrize("model", ["egg", "gru", "transformer"])
def test_each_model_meets_the_protocol_and_starts_near_uniform(folder, model):
    task = language(folder, model=model)
    metrics = check_task(task, population=8)
    assert next(iter(metrics)) == "bits/byte"
    assert 7 < metrics["bits/byte"] < 11
    assert task.differentiable == (model != "egg")


def test_a_gradient_flows_through_float_models_only_along_documents(folder):
    task = language(folder, model="gru")
    params = task.init(jax.random.key(0))
    carry = jax.tree.map(lambda x: x[0] + 1.0, task.initial_carry(4))

    def fitness(carry, first):
        data = jnp.array([first, 3, 4, 5, 6, 7, 8, 9, 10], jnp.uint8)
        return task.evaluate(params, data, carry, None)[0]

    slope = jax.jit(jax.grad(fitness))
    assert jnp.any(slope(carry, 2) != 0)
    assert not jnp.any(slope(carry, 0))


@functools.cache
def _config(population, folder, **stepping):
    task = {
        "class": "tasks.language:Language",
        "corpus": folder,
        "lanes": 4,
        "tokens": 8,
        "layers": 1,
        "width": 16,
        "validation_lanes": 4,
        "stepping": stepping,
    }
    tree = {
        "task": task,
        "algorithm": "integer",
        "strategy": {"population": population, "sigma": 0.0625},
        "budget": {"generations": 3},
    }
    return resolve(tree)


def steps(config, count):
    task = instantiate.task(config)
    algorithm = find(task, config)
    state = initial_state(Experiment(config, task, algorithm))
    rows = []
    for step in range(count):
        state, row = algorithm.step(state, task.batch((), step, state.key))
        rows.append({name: float(value) for name, value in row.items()})
    return state, rows


def test_members_keep_their_own_states_and_params_stay_int8(folder):
    state, rows = steps(_config(16, folder), 2)
    states = np.asarray(jax.tree.leaves(state.carry)[0])
    assert states.shape == (16, 16)
    assert len(np.unique(states, axis=0)) > 8
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("int8")}
    assert rows[0]["samples"] == 16 * 8
    assert 0 < rows[0]["update/changed"] <= 1
    assert rows[0]["votes/margin"] > 0.5


@pytest.mark.parametrize("paper", [True, False])
def test_paper_changes_noise_shifts_and_votes(folder, paper):
    task = language(folder, stepping=Stepping(paper=paper))
    strategy = strategy_of(_config(16, folder), task.stepping)
    published = ("truncated", "floor", "sign")
    ours = ("rademacher", "nearest", "difference")
    expected = published if paper else ours
    assert (strategy.noise, strategy.rounding, strategy.weighting) == expected
    assert task.network.rounding == strategy.rounding


@pytest.mark.slow
def test_the_published_program_moves_every_weight_at_first(folder):
    _, rows = steps(_config(16, folder, paper=True), 1)
    assert rows[0]["update/changed"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("change", [dict(devices=8), dict(devices=2, chunk=6)])
def test_devices_and_chunks_change_no_bit_of_a_run(folder, change):
    config = _config(16, folder)
    strategy = dataclasses.replace(config.strategy, chunk_size=change.get("chunk"))
    other = dataclasses.replace(
        config, strategy=strategy, mesh=MeshConfig(devices=change["devices"])
    )
    (one, _), (same, _) = (
        steps(dataclasses.replace(config, mesh=MeshConfig(devices=1)), 2),
        steps(other, 2),
    )
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(same), strict=True):
        if jnp.issubdtype(x.dtype, jnp.integer):
            np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.slow
def test_a_resumed_run_equals_one_that_never_stopped(folder, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(yamlfile.dump(plain(_config(16, folder))))
    rest = [str(config), "--output", str(tmp_path), "--diagnose_every", "0"]
    assert main(["train", *rest, "--name", "whole", "--generations", "4"]) == 0
    assert main(["train", *rest, "--name", "parts", "--generations", "2"]) == 0
    again = ["train", "--resume", str(tmp_path / "parts"), "--generations", "4"]
    assert main(again) == 0
    last = []
    for name in ("whole", "parts"):
        rows = metrics.read(tmp_path / name / "metrics.jsonl")
        last.append([row for row in rows if "validation/bits/byte" in row][-1])
    for name in ("validation/bits/byte", "validation/weights/entropy"):
        assert last[0][name] == last[1][name]


@pytest.mark.slow
def test_it_learns_to_repeat(folder):
    config = _config(256, folder)
    _, rows = steps(config, 60)
    assert rows[-1]["bits/byte"] < rows[0]["bits/byte"] - 2


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (dict(sigma=0.05), "power of two, 0.0625 say"),
        (dict(antithetic=False, sigma=0.0625), "leave it true"),
        (dict(noise="gaussian", sigma=0.0625), 'weighting="sign"'),
        (dict(population=7, sigma=0.0625), "use 8"),
    ],
)
def test_strategies_that_integers_cannot_follow_are_refused(folder, strategy, message):
    config = _config(16, folder)
    changed = {**dataclasses.asdict(config.strategy), "shaping": "zscore", **strategy}
    tree = {
        "task": {"class": "tasks.language:Language", "corpus": folder},
        "algorithm": "integer",
        "strategy": changed,
        "budget": {"generations": 1},
    }
    config = resolve(tree)
    with pytest.raises(UserError, match=message):
        find(language(folder), config)


def test_a_group_that_does_not_divide_the_population_is_refused(folder):
    task = language(folder)
    for population in (10, 12, 20):
        with pytest.raises(UserError, match="a whole number of pairs"):
            task.initial_carry(population)
    for population in (4, 8, 16):
        task.initial_carry(population)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(width=32), "power of 4; got 32: take 16 or 64"),
        (dict(model="lstm"), "egg, gru or transformer"),
    ],
)
def test_impossible_models_are_refused(folder, changes, message):
    with pytest.raises(UserError, match=message):
        language(folder, **changes)


def test_too_little_text_to_validate_on_is_refused_with_the_first_batch(tmp_path):
    file = tmp_path / "text"
    file.write_bytes(bytes(range(100)))  # ten of them are held out
    task = language(str(file), lanes=1, tokens=20)
    with pytest.raises(UserError, match=r"held-out part is too short.*20 \+ 1.*got 11"):
        task.batch((), 0, jax.random.key(0))


def test_rules_are_checked_before_training():
    with pytest.raises(UserError, match=r"stepping.threshold: expected at least 1"):
        Stepping(threshold=0)


# ---------------------------------------------------------------------- diagnostics


def test_the_diagnostics_are_drawn_from_what_a_run_has_logged(folder, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yamlfile.dump(plain(_config(16, folder))))
    rows = [
        {"step": 0, "validation/bits/byte": 8.0, "validation/saturation/logits": 0.1},
        {"step": 1, "votes/margin": 0.9, "update/changed": 0.4},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "metrics.jsonl").write_text(lines)
    assert draw(run).stat().st_size > 10_000
    (run / "metrics.jsonl").write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(UserError, match="only runs of `algorithm: integer`"):
        draw(run)


def test_the_diagnostics_count_saturation_and_entropy():
    model = Egg(1, 16, 256)
    params = jax.tree.map(
        lambda x: jnp.full(x.shape, 127, jnp.int8),
        jax.eval_shape(model.init, jax.random.key(0)),
    )
    shares = saturation_of(model, params, jnp.ones((2, 3), jnp.uint8))
    assert shares["saturation/embedding"] == 1
    assert weights_of(params) == {"weights/entropy": 0, "weights/size": 127}
    halves = [jnp.zeros(8, jnp.int8), jnp.ones(8, jnp.int8)]
    assert weights_of(halves) == {"weights/entropy": 1, "weights/size": 0.5}
