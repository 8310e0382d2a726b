"""A run's state lies on the devices as the settings say, and stays there."""

import jax
import numpy as np
import pytest
import toyrun
from jax.sharding import PartitionSpec as P

from eggroll import UserError, training
from eggroll.training import experiment, placement


pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")
# `w` of 8 inputs and 4 outputs, divided over a model of two devices.
MODEL = "mesh={model_devices: 2, partition: {w: [null, model]}}"
WIDE = ("algorithm=eggroll", "task.inputs=8", "task.outputs=4", "population=16")


def settings(path, *overrides):
    return toyrun.config(path, *WIDE, *overrides)


def lies(array):
    spec = tuple(array.sharding.spec)
    return spec + (None,) * (array.ndim - len(spec))


def test_the_optimiser_keeps_what_it_keeps_where_the_parameter_is(tmp_path):
    prepared = training.prepare(settings(tmp_path, MODEL))
    found = experiment.placements(prepared)
    assert found.params["w"].spec == P(None, "model")
    assert found.params["b"].spec == P()
    assert found.opt_state[0].mu["w"].spec == P(None, "model")
    assert found.opt_state[0].count.spec == P()
    state = training.initial_state(prepared)
    assert lies(state.opt_state[0].nu["w"]) == (None, "model")
    assert state.key.sharding.is_fully_replicated


def test_scattered_updates_have_scattered_optimisers(tmp_path):
    prepared = training.prepare(settings(tmp_path, MODEL, "mesh.update=scatter"))
    found = experiment.placements(prepared)
    assert found.params["w"].spec == P(None, "model")
    assert found.opt_state[0].mu["w"].spec == P("population", "model")


@pytest.mark.slow
@pytest.mark.parametrize("update", ["reduce", "scatter", "replay"])
def test_a_run_is_the_same_on_any_mesh(tmp_path, update):
    _, one = toyrun.train(settings(tmp_path))
    _, many = toyrun.train(
        settings(tmp_path, "mesh.devices=8", MODEL, f"mesh.update={update}")
    )
    assert lies(many.state.params["w"]) == (None, "model")
    own = "population" if update == "scatter" else None
    assert lies(many.state.opt_state[0].mu["w"]) == (own, "model")
    pairs = zip(jax.tree.leaves(one.state), jax.tree.leaves(many.state), strict=True)
    for x, y in pairs:
        if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)


def test_what_lies_elsewhere_is_moved_and_the_rest_left_alone(tmp_path):
    prepared = training.prepare(settings(tmp_path, MODEL))
    wanted = experiment.placements(prepared)
    state = training.initial_state(prepared)
    still = jax.tree.leaves(placement.settled(state, wanted))
    assert all(x is y for x, y in zip(still, jax.tree.leaves(state), strict=True))
    astray = jax.device_put(state.params["w"], wanted.params["b"])
    moved = placement.settled(
        state._replace(params={**state.params, "w": astray}), wanted
    )
    assert lies(moved.params["w"]) == (None, "model")


REFUSED = {
    "uneven": (
        "mesh={model_devices: 2, partition: {b: [model]}}",
        "task.outputs=3",
        "size 3",
    ),
    "unknown": (
        "mesh={model_devices: 2, partition: {v: [model]}}",
        "task.outputs=4",
        "no leaf",
    ),
    "no divisor": ("mesh.model_devices=3", "task.outputs=4", "mesh: model must divide"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_a_mesh_that_cannot_be_is_refused_before_the_run(tmp_path, case):
    *overrides, said = case
    overrides = ["mesh.devices=8", *overrides]
    with pytest.raises(UserError, match=said):
        training.prepare(settings(tmp_path, *overrides))
