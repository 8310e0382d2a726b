"""What ways of the update cost: known limits, and the crossings between them."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

import eggroll
from eggroll.evolution import costs
from eggroll.evolution.costs import Rates, Shape


RATES = Rates(flops=400e12, values=2e12, links=300e9)


def shape(pairs, devices=8, group=8, parameters=7e9, width=4096, rank=1):
    values, products = 2 * rank * parameters / width, rank * parameters
    return Shape(parameters, 2 * parameters, products, values, pairs, devices, group)


def test_one_device_sends_nothing():
    found = costs.of_update(shape(512, 1, 1), RATES)
    assert found["reduce"] == found["scatter"] == found["replay"]


def test_an_all_reduce_sends_each_number_twice_but_for_the_own_part():
    without = costs.of_update(shape(0), RATES)
    assert without["reduce"] == pytest.approx(2 * 4 * 7e9 * 7 / 8 / 300e9)
    assert without["scatter"] == pytest.approx(0.75 * without["reduce"])
    assert without["replay"] == 0


def test_few_members_are_replayed_and_many_are_not():
    few, many = (costs.of_update(shape(n / 2), RATES) for n in (2**10, 2**20))
    assert costs.cheapest(few) == "replay"
    assert costs.cheapest(many) == "scatter"


@pytest.mark.parametrize("parameters", [5e8, 7e9, 7e10])
def test_where_they_cross_does_not_depend_on_the_size(parameters):
    """N* ≈ 2 (8 / bandwidth) / (2r / F + 2r / (d V)): reduce sends 8 bytes a weight."""
    rank, width = 1, 4096
    each = 2 * rank / RATES.flops + 2 * rank / width / RATES.values
    at = 2 * (8 / RATES.links) / each
    reduce_, replay = (
        costs.of_update(shape(at / 2, 2**16, 2**16, parameters), RATES)[way]
        for way in ("reduce", "replay")
    )
    assert reduce_ == pytest.approx(replay, rel=0.01)


def test_slow_networks_between_fast_hosts_are_for_mixing():
    slow = RATES._replace(network=1e9)
    found = costs.of_update(shape(2**15, 64, 8), slow)
    assert costs.cheapest(found) == "mixed"
    assert "mixed" not in costs.of_update(shape(2**15, 8, 1), slow)


def test_the_shape_is_that_of_a_devices_part():
    mesh = eggroll.population_mesh(jax.devices()[:1], model=1)
    es = eggroll.EvolutionStrategy(64, 0.1, rank=3, mesh=mesh)
    params = {"w": jnp.ones((8, 6), jnp.bfloat16), "b": jnp.ones(6)}
    loss = lambda p, x: jnp.mean(x @ p["w"] + p["b"])
    x = jnp.ones((2, 8), jnp.bfloat16)
    generation = es.generation(loss)(params, jax.random.key(0), x)
    found = costs.shape_of(generation, 64, mesh)
    assert found == Shape(54, 2 * 48 + 4 * 6, 3 * 48 + 6, 3 * 14 + 6, 32, 1, 1)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")
def test_a_model_that_is_shared_has_a_share_of_the_weights():
    mesh = eggroll.population_mesh(jax.devices()[:8], model=2)
    es = eggroll.EvolutionStrategy(
        64, 0.1, mesh=mesh, partition={"w": P(None, "model")}
    )
    loss = lambda p, x: jnp.mean(x @ p["w"])
    generation = es.generation(loss)(
        {"w": jnp.ones((8, 6))}, jax.random.key(0), jnp.ones((2, 8))
    )
    found = costs.shape_of(generation, 64, mesh)
    assert (found.weights, found.values, found.devices) == (24, 14, 4)


def test_words_tell_the_cheapest_first():
    assert costs.in_words({"reduce": 2.0, "replay": 0.5}) == "replay 0.5 s, reduce 2 s"
