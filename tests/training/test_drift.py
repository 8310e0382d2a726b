"""How far a run has come, of which no copy of the start is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toyrun import config, train

from eggroll import training
from eggroll.runs import metrics
from eggroll.training import drift


NAME = "parameters/drift"


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(tree)))


def test_of_small_arrays_the_distance_is_exact(getkey):
    start = {"w": jax.random.normal(getkey(), (30, 20)), "n": jnp.arange(5)}
    moved = {"w": start["w"] + 0.1, "n": start["n"] + 2}
    far = drift.distance(drift.outline(start), moved)
    wanted = np.sqrt(600 * 0.01 + 5 * 4) / norm(start)
    np.testing.assert_allclose(far, wanted, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 10.0])
def test_of_large_arrays_it_is_estimated_within_its_error(getkey, scale):
    """The square's standard deviation is sqrt(2 / 512), the distance's half of that."""
    start = [jnp.zeros(2), jax.random.normal(getkey(), (512, 3, 64))]
    kept = drift.outline(start)
    assert [x.shape for x in kept.sums] == [(2,), (512,)]
    np.testing.assert_allclose(kept.norm, norm(start), rtol=1e-4)
    step = scale * jax.random.normal(getkey(), (1, 3, 64)) * jnp.ones((512, 1, 1))
    far = drift.distance(kept, [start[0], start[1] + step])
    wanted = norm(step) / norm(start)
    assert abs(far / wanted - 1) < 5 * np.sqrt(2 / 512) / 2


def test_the_outline_outlives_what_it_is_of(getkey):
    start = jax.random.normal(getkey(), (8,))
    kept, moved = drift.outline(start), start + 1
    start.delete()
    assert drift.distance(kept, moved) > 0


def test_of_a_start_at_zero_there_is_none():
    assert np.isnan(drift.distance(drift.outline(jnp.zeros(3)), jnp.ones(3)))


def test_a_run_tells_of_it_at_its_diagnoses(tmp_path):
    settings = ("task.class=sick:Wide", "diagnose_every=5", "budget.generations=11")
    made = config(tmp_path, *settings)
    start = training.initial_state(training.prepare(made)).params
    run, outcome = train(made)
    rows = {row["step"]: row for row in metrics.read(run.metrics)}
    told = {x: row[NAME] for x, row in rows.items() if NAME in row}
    assert [*told] == [1, 6, 11]
    moved = jax.tree.map(jnp.subtract, outcome.state.params, start)
    assert told[11] == pytest.approx(norm(moved) / norm(start), rel=1e-4)
