"""The same program gives the same numbers on one device and on several processes."""

import functools

import jax
import numpy as np
import pytest
import several
import trajectories

import eggroll


pytestmark = pytest.mark.distributed
WAYS = ("reduce", "mixed", "scatter", "replay")


@functools.cache
def alone(model, devices, share=1):
    mesh = eggroll.population_mesh(jax.devices()[:devices], model=share)
    return trajectories.run(trajectories.CASES[model](), mesh)


def assert_close(found, expected, tolerance):
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_an_mlp_on_more_devices(devices):
    assert_close(alone("mlp", devices), alone("mlp", 1), 1e-4)


@pytest.mark.parametrize(("devices", "share"), [(2, 1), (2, 2), (8, 2), (8, 8)])
def test_a_transformer_on_more_devices(devices, share):
    expected = alone("transformer", 1)
    assert_close(alone("transformer", devices, share), expected, 1e-3)


@functools.cache
def together(folder, model):
    file = folder / "found.npz"
    program = [trajectories.__file__, model, str(file)]
    ended = several.Started(program, folder, processes=2, devices=4).wait()
    assert [one.status for one in ended] == [0, 0], ended
    with np.load(file) as found:
        return dict(found), ended


@pytest.fixture(params=["mlp", "transformer-2"], scope="module")
def two_processes(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, *together(folder, request.param)


def test_noise_is_the_same_to_the_bit(two_processes):
    _, found, _ = two_processes
    expected = trajectories.noise(eggroll.population_mesh(jax.devices()[:1]))
    np.testing.assert_array_equal(found["noise"], expected)


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_learn_what_one_does(two_processes, way):
    name, found, _ = two_processes
    model, _, share = name.partition("-")
    expected = alone(model, 8, int(share or 1))
    flat, _ = jax.tree_util.tree_flatten_with_path(expected)
    for path, x in flat:
        one = found[way + jax.tree_util.keystr(path, simple=True)]
        np.testing.assert_allclose(one, x, rtol=1e-3, atol=1e-3)


def test_with_a_fixed_order_they_learn_the_same_bits(two_processes):
    name, found, _ = two_processes
    if name != "mlp":
        pytest.skip("sums of a shared model have the order of its devices, too")
    one = eggroll.population_mesh(jax.devices()[:1])
    how = {"fixed_order": trajectories.FIXED, "chunk_size": 4}
    for leaf, x in trajectories.run(trajectories.mlp(), one, **how).items():
        np.testing.assert_array_equal(found[f"fixed{leaf}"], x)


def test_fitness_that_differs_between_processes_is_refused(two_processes):
    *_, ended = two_processes
    for one in ended:
        assert "the fitness of process 1 differs from that of process 0" in one.text
