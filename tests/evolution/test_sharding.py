"""The population over eight (simulated) devices gives what one device gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from jax.sharding import AxisType, Mesh

import eggroll
from eggroll import EvolutionStrategy


KEY = jax.random.key(0)
PARAMS = {
    "w": jnp.arange(12.0).reshape(4, 3) / 12,
    "b": jnp.ones(3),
    "whole": jnp.arange(3),
}
N = 32
pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")


def mesh(devices=8):
    return eggroll.population_mesh(jax.devices()[:devices])


def fitness(params, x, key):
    shift = 0.01 * jax.random.normal(key, (3,))
    out = jnp.tanh(x @ params["w"] + params["b"] + shift) * params["whole"]
    return -jnp.mean(out**2), out


def run(devices, in_axes=0, **settings):
    spread = mesh(devices) if devices else None
    es = EvolutionStrategy(N, sigma=0.1, mesh=spread, noise="gaussian", **settings)
    rows = jnp.linspace(-1, 1, 4 * (N if in_axes == 0 else 1)).reshape(-1, 4)
    x = rows if in_axes == 0 else rows[0]
    everything = es.value_and_grad(
        fitness=fitness, in_axes=in_axes, has_aux=True, value="members"
    )
    return quick.jit(everything)(PARAMS, KEY, x, step=3)


SETTINGS = {
    "a row a member": {},
    "shared": {"in_axes": None},
    "chunks": {"chunk_size": 3},
    "without pairs": {"antithetic": False},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_eight_devices_give_what_one_gives(settings):
    (value, out), grads = run(8, **settings)
    (expected_value, expected_out), expected = run(None, **settings)
    np.testing.assert_allclose(out, expected_out, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    assert grads["whole"] is None
    for k in ("w", "b"):
        np.testing.assert_allclose(grads[k], expected[k], rtol=1e-4, atol=1e-5)


def test_noise_is_the_same_to_the_bit():
    def members(spread):
        es = EvolutionStrategy(N, sigma=1.0, mesh=spread, noise="gaussian")
        return quick.jit(es.ask(lambda p: (p, jnp.ones(4) @ p)))(PARAMS["w"] * 0, KEY)

    (one, _), _ = members(None)
    (eight, _), _ = members(mesh())
    np.testing.assert_array_equal(one, eight)


def test_groups_are_those_of_the_whole_population():
    read = lambda params, x: x + 0 * jnp.sum(params["b"])
    es = EvolutionStrategy(N, sigma=0.1, mesh=mesh())
    outputs, _ = quick.jit(es.ask(read, in_axes=0))(PARAMS, KEY, jnp.arange(4.0))
    np.testing.assert_array_equal(outputs, np.repeat(np.arange(4.0), N // 4))


def test_members_and_their_outputs_lie_on_all_devices():
    (_, out), grads = run(8)
    assert len(out.sharding.device_set) == 8
    assert out.addressable_shards[0].data.shape[0] == N // 8
    assert grads["w"].sharding.is_fully_replicated


def test_the_smallest_mesh_is_one_device():
    (_, out), grads = run(1)
    (_, expected_out), expected = run(None)
    np.testing.assert_allclose(out, expected_out, rtol=1e-6)
    np.testing.assert_allclose(grads["w"], expected["w"], rtol=1e-5)


def test_a_function_may_close_over_what_is_traced():
    es = EvolutionStrategy(N, sigma=0.1, mesh=mesh())

    @quick.jit
    def both(x):
        score = lambda params: jnp.sum(x @ params["w"])
        return es.value_and_grad(fitness=score)(PARAMS, KEY)

    _, grads = both(jnp.ones(4))
    assert np.any(grads["w"])


def test_a_mesh_may_have_other_axes():
    devices = np.array(jax.devices()[:8]).reshape(4, 2)
    both = Mesh(devices, ("population", "model"), axis_types=(AxisType.Auto,) * 2)
    es = EvolutionStrategy(N, sigma=0.1, mesh=both)
    score = lambda params: jnp.sum(jnp.ones(4) @ params["w"])
    value, _ = quick.jit(es.value_and_grad(fitness=score))(PARAMS, KEY)
    one = EvolutionStrategy(N, sigma=0.1)
    expected, _ = quick.jit(one.value_and_grad(fitness=score))(PARAMS, KEY)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


# --- Bad input


@pytest.mark.parametrize(
    ("population", "antithetic", "message"),
    [
        (
            20,
            True,
            r"multiple of 16 \(8 devices, whole pairs on each\), got 20; use 32",
        ),
        (20, False, r"multiple of 8 \(8 devices\), got 20; use 24"),
    ],
)
def test_a_population_that_does_not_divide_is_refused(population, antithetic, message):
    with pytest.raises(ValueError, match=message):
        EvolutionStrategy(population, sigma=0.1, antithetic=antithetic, mesh=mesh())


def test_a_mesh_without_the_axis_is_refused():
    data = Mesh(np.array(jax.devices()[:8]), ("data",))
    with pytest.raises(
        ValueError, match=r"axis named 'population', got axes \('data',\)"
    ):
        EvolutionStrategy(N, sigma=0.1, mesh=data)


# --- Chunks
