"""From raw fitness to weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eggroll import shaping
from eggroll.evolution.shaping import (
    apply,
    centred_rank,
    groups,
    none,
    pair_sign,
    zscore,
)


FITNESS = jnp.array([3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0, 6.0])
SHAPINGS = {
    "none": none,
    "zscore": zscore,
    "centred_rank": centred_rank,
    "pair_sign": pair_sign,
    "groups": groups(4),
    "groups, own spread": groups(4, spread="group"),
}
each_shaping = pytest.mark.parametrize("shape", SHAPINGS.values(), ids=SHAPINGS.keys())
each_relative = pytest.mark.parametrize(
    "shape", [s for n, s in SHAPINGS.items() if n != "none"]
)


def test_none_is_the_fitness_itself():
    np.testing.assert_array_equal(none(FITNESS), FITNESS)


def test_zscore_has_mean_zero_and_standard_deviation_one():
    weights = zscore(FITNESS)
    expected = (FITNESS - np.mean(FITNESS)) / np.std(FITNESS)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_centred_rank_runs_from_minus_a_half_to_a_half():
    expected = np.array([4, 1, 5, 2, 0, 7, 3, 6]) / 7 - 0.5
    np.testing.assert_allclose(centred_rank(FITNESS), expected, rtol=1e-6)


def test_centred_rank_gives_ties_their_mean_rank():
    tied = centred_rank(jnp.array([1.0, 0.0, 1.0, 5.0]))
    np.testing.assert_allclose(tied, np.array([1.5, 0, 1.5, 3]) / 3 - 0.5, rtol=1e-6)


def test_pair_sign_tells_the_better_of_each_pair():
    weights = pair_sign(jnp.array([3.0, -1.0, 2.0, 2.5, 4.0, 4.0]))
    np.testing.assert_array_equal(weights, [0.5, -0.5, -0.5, 0.5, 0.0, 0.0])


@pytest.mark.parametrize("spread", ["global", "group"])
def test_groups_are_centred_each_on_its_own_mean(spread):
    weights = np.asarray(groups(4, spread)(FITNESS)).reshape(2, 4)
    centred = np.asarray(FITNESS).reshape(2, 4)
    centred = centred - centred.mean(axis=1, keepdims=True)
    axis = None if spread == "global" else 1
    scale = np.sqrt(np.mean(centred**2, axis=axis, keepdims=True))
    np.testing.assert_allclose(weights, centred / scale, rtol=1e-5)


def test_one_group_is_the_zscore():
    np.testing.assert_allclose(groups(8)(FITNESS), zscore(FITNESS), rtol=1e-6)


# --- What holds for all


@each_shaping
def test_weights_rise_with_fitness_within_a_pair(shape):
    weights = shape(FITNESS)
    better = np.sign(FITNESS[0::2] - FITNESS[1::2])
    np.testing.assert_array_equal(np.sign(weights[0::2] - weights[1::2]), better)


@each_relative
def test_weights_do_not_depend_on_offset_and_scale(shape):
    np.testing.assert_allclose(shape(FITNESS), shape(3 * FITNESS + 7), atol=1e-5)


@each_relative
def test_fitness_that_does_not_vary_weighs_nothing(shape):
    np.testing.assert_array_equal(shape(jnp.full(8, 3.7)), np.zeros(8))


@each_shaping
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_failed_member_and_its_partner_weigh_nothing(shape, bad):
    weights = apply(shape, FITNESS.at[2].set(bad), antithetic=True)
    np.testing.assert_array_equal(weights[2:4], [0.0, 0.0])
    assert np.isfinite(weights).all()
    assert (np.abs(weights) > 0).sum() >= 5


@pytest.mark.parametrize("name", ["none", "zscore", "centred_rank"])
def test_the_others_weigh_as_if_a_failed_pair_had_never_been(name):
    failed = FITNESS.at[2].set(jnp.nan)
    rest = jnp.delete(FITNESS, jnp.array([2, 3]))
    weights = apply(SHAPINGS[name], failed, antithetic=True)
    expected = SHAPINGS[name](rest)
    np.testing.assert_allclose(
        weights[np.array([0, 1, 4, 5, 6, 7])], expected, rtol=1e-5
    )


def test_without_pairs_a_failed_member_fails_alone():
    weights = apply(none, FITNESS.at[2].set(jnp.nan), antithetic=False)
    np.testing.assert_array_equal(weights, FITNESS.at[2].set(0.0))


@each_shaping
def test_a_population_that_failed_weighs_nothing(shape):
    weights = apply(shape, jnp.full(8, jnp.nan), antithetic=True)
    np.testing.assert_array_equal(weights, np.zeros(8))


@each_shaping
def test_shaping_works_under_jit(shape):
    np.testing.assert_allclose(jax.jit(shape)(FITNESS), shape(FITNESS), rtol=1e-5)


@each_relative
def test_large_offsets_do_not_drown_the_differences(shape):
    offset = 2.0**20  # exact in float32 with these differences
    np.testing.assert_allclose(shape(FITNESS + offset), shape(FITNESS), atol=1e-5)


# --- Bad input


def test_an_unknown_spread_is_refused():
    with pytest.raises(
        ValueError, match="spread must be 'global' or 'group', got 'pair'"
    ):
        groups(4, spread="pair")


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2 members to compare"):
        groups(1)


def test_a_group_size_that_does_not_divide_the_population_is_refused():
    with pytest.raises(ValueError, match="groups of 3 and 8 members"):
        groups(3)(FITNESS)


def test_all_shapings_are_named_here():
    public = {n for n in vars(shaping) if not n.startswith("_")}
    assert {"none", "zscore", "centred_rank", "pair_sign", "groups"} <= public
