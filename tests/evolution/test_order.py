"""With a fixed order, floats do not depend on how many devices add them up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import eggroll
from eggroll.evolution import order


pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")
KEY = jax.random.key(0)
PARAMS = {"w": jnp.linspace(-1, 1, 40).reshape(8, 5), "b": jnp.ones(5)}


def loss(params, x):
    return jnp.mean(jnp.sin(3 * x @ params["w"] + params["b"]))


@pytest.mark.slow
def test_a_gradient_is_the_same_to_the_bit():
    x, grads = jnp.linspace(-2, 2, 24).reshape(3, 8), []
    for devices in (1, 8):
        mesh = eggroll.population_mesh(jax.devices()[:devices])
        es = eggroll.EvolutionStrategy(32, 0.1, mesh=mesh, fixed_order=8)
        grads.append(jax.jit(es.grad(loss))(PARAMS, KEY, x))
    for name in PARAMS:
        np.testing.assert_array_equal(grads[0][name], grads[1][name])
    plain = eggroll.EvolutionStrategy(32, 0.1)
    expected = jax.jit(plain.grad(loss))(PARAMS, KEY, x)
    np.testing.assert_allclose(grads[0]["w"], expected["w"], atol=1e-5)


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_the_sum_over_devices_is_a_binary_tree(devices):
    parts = np.random.default_rng(0).normal(size=(devices, 3, 5)).astype(np.float32)
    mesh = eggroll.population_mesh(jax.devices()[:devices])
    total = jax.shard_map(
        lambda x: order.all_reduced(x[0], devices),
        mesh=mesh,
        in_specs=P("population"),
        out_specs=P(),
        check_vma=False,
    )
    found = jax.jit(total)(parts)
    np.testing.assert_array_equal(found, order.tree_sum(jnp.asarray(parts)))


REFUSED = {
    "no power of two": ({"fixed_order": 12}, 8, "power of two that the 8 device"),
    "fewer than devices": ({"fixed_order": 4}, 8, "power of two that the 8 device"),
    "half pairs": ({"fixed_order": 32}, 8, "multiple of 64 .32 units"),
    "another way": ({"fixed_order": 8, "update": "replay"}, 8, "update='reduce'"),
    "nothing": ({"fixed_order": 0}, 1, "fixed_order must be at least 1"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_an_order_that_cannot_be_is_refused(case):
    settings, devices, said = case
    mesh = eggroll.population_mesh(jax.devices()[:devices])
    with pytest.raises(ValueError, match=said):
        eggroll.EvolutionStrategy(32, 0.1, mesh=mesh, **settings)
