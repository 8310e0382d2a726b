"""Fitness that is packed teaches what it would have taught."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

import eggroll
from eggroll import packing


KEY = jax.random.key(0)
FLOATS = jax.random.normal(KEY, (24,)).at[jnp.array([3, 6, 7])].set(1.0)
FAILED = FLOATS.at[jnp.array([0, 9, 12])].set(jnp.array([jnp.nan, jnp.inf, -jnp.inf]))


@pytest.mark.parametrize("fitness", [FLOATS, FAILED], ids=["all count", "some failed"])
def test_the_gradient_is_that_of_all_the_fitness_to_the_bit(fitness):
    es = eggroll.EvolutionStrategy(24, sigma=0.1, shaping=eggroll.shaping.pair_sign)
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones(4)}
    asked = es.generation(lambda p: p["w"].sum() + p["b"].sum())(params, KEY)
    gradient = quick.jit(es.gradient)
    again = packing.unpacked(packing.packed(fitness), 24)
    for one, other in zip(
        jax.tree.leaves(gradient(asked, fitness)),
        jax.tree.leaves(gradient(asked, again)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_so_are_the_votes_for_integers():
    es = eggroll.IntegerStrategy(24, sigma_shift=4, weighting="sign")
    asked = es.generation(lambda p: p["w"].sum())(
        {"w": jnp.ones((3, 4), jnp.int8)}, KEY
    )
    fitness = (FLOATS * 8).astype(jnp.int32)
    again = packing.unpacked(packing.packed(fitness), 24)
    votes = [es.votes(asked, x)["w"] for x in (fitness, again)]
    np.testing.assert_array_equal(*votes)
    assert votes[0].any()


@pytest.mark.parametrize("members", [2, 10, 12, 1000])
def test_ten_members_take_a_byte(members):
    fitness = jax.random.randint(KEY, (members,), 0, 3)
    packed = quick.jit(packing.packed)(fitness)
    assert packed.nbytes == -(-members // 10)
    better = np.sign(np.asarray(fitness[0::2]) - np.asarray(fitness[1::2]))
    again = packing.unpacked(packed, members)
    np.testing.assert_array_equal(again[0::2], better)
    np.testing.assert_array_equal(again[1::2], -better)


def test_parts_of_a_population_are_put_one_after_another():
    parts = jnp.concatenate([packing.packed(FLOATS[:20]), packing.packed(FLOATS[20:])])
    np.testing.assert_array_equal(parts, packing.packed(FLOATS))


@pytest.mark.parametrize(("members", "size"), [(24, 2), (24, 4), (23, 3)])
def test_another_number_of_bytes_is_refused(members, size):
    with pytest.raises(ValueError, match=rf"got {members} members in {size} bytes"):
        packing.unpacked(jnp.zeros(size, jnp.uint8), members)


def test_members_without_partner_are_refused():
    with pytest.raises(ValueError, match="expected an even number of members, got 23"):
        packing.packed(FLOATS[:23])
