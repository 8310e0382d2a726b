"""With a fixed order, floats are the same to the bit on any number of devices."""

import functools

import jax
import numpy as np
import pytest
import trajectories

import eggroll


pytestmark = pytest.mark.distributed
UNITS = trajectories.FIXED


@functools.cache
def run(model, devices, share=1):
    devices = jax.devices()[: devices * share]
    mesh = eggroll.population_mesh(devices, model=share)
    case = trajectories.CASES[model]()
    return trajectories.run(case, mesh, fixed_order=UNITS, chunk_size=4)


def assert_equal(found, expected):
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize("model", trajectories.CASES)
def test_any_number_of_devices_learns_the_same_bits(model, devices):
    assert_equal(run(model, devices), run(model, 1))


@pytest.mark.parametrize("devices", [2, 4])
def test_and_so_it_is_with_a_model_that_is_shared(devices):
    assert_equal(run("transformer", devices, 2), run("transformer", 1, 2))


def test_what_is_learnt_is_what_is_learnt_without_an_order():
    mesh = eggroll.population_mesh(jax.devices()[:1])
    expected = trajectories.run(trajectories.mlp(), mesh)
    found = run("mlp", 8)
    for name, x in expected.items():
        np.testing.assert_allclose(found[name], x, atol=1e-4)
