"""From raw fitness to weights."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eggroll import shaping
from eggroll.evolution.shaping import (
    apply,
    centre,
    centred_rank,
    counted,
    groups,
    needs_pairs,
    none,
    pair_sign,
    ranks,
    zscore,
)


FITNESS = jnp.array([3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0, 6.0])
SHAPINGS = {
    "none": none,
    "centre": centre,
    "zscore": zscore,
    "centred_rank": centred_rank,
    "ranks": ranks(),
    "pair_sign": pair_sign,
    "groups": groups(4),
    "groups, own spread": groups(4, spread="group"),
    "groups, undivided": groups(4, spread="none"),
}
UNDIVIDED = {"none", "centre", "groups, undivided"}
each_shaping = pytest.mark.parametrize("shape", SHAPINGS.values(), ids=SHAPINGS.keys())
each_relative = pytest.mark.parametrize(
    "shape",
    [s for n, s in SHAPINGS.items() if n not in UNDIVIDED],
)
LAST = ranks(failed="last")


def test_none_is_the_fitness_itself():
    np.testing.assert_array_equal(none(FITNESS), FITNESS)


def test_centre_subtracts_the_mean_and_no_more():
    np.testing.assert_allclose(centre(FITNESS), FITNESS - np.mean(FITNESS), rtol=1e-6)
    np.testing.assert_allclose(centre(5 * FITNESS + 1), 5 * centre(FITNESS), rtol=1e-5)


def test_centre_of_fitness_that_does_not_vary_is_zero():
    np.testing.assert_array_equal(centre(jnp.full(8, 3.7)), np.zeros(8))


def test_centre_is_exact_beside_a_large_offset_and_in_integers():
    expected = FITNESS - np.mean(FITNESS)
    for offset in (jnp.float32(2.0**20), jnp.int32(2**30)):
        found = centre(FITNESS.astype(offset.dtype) + offset)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("largest", [1e-37, 1.0, 3e38])
def test_centre_does_not_overflow_on_the_way(largest):
    found = centre(jnp.float32([largest, 0, -largest, 0]))
    np.testing.assert_allclose(found, np.float32([largest, 0, -largest, 0]), rtol=1e-6)
    found = centre(jnp.float32([largest, -largest, -largest, -largest]))
    limit = jnp.finfo(jnp.float32).max
    expected = np.minimum(
        np.float64(largest) * np.array([1.5, -0.5, -0.5, -0.5]), limit
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


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


@pytest.mark.parametrize("shape", [centred_rank, LAST])
def test_a_member_without_another_to_compare_has_no_rank(shape):
    weights = apply(shape, jnp.array([2.5]), antithetic=False)
    np.testing.assert_array_equal(weights, [0.0])


def test_ranks_that_leave_failed_members_out_are_the_centred_rank():
    np.testing.assert_array_equal(ranks("out")(FITNESS), centred_rank(FITNESS))


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


def test_groups_may_be_centred_and_no_more():
    weights = groups(4, "none")(FITNESS)
    expected = np.concatenate([centre(FITNESS[:4]), centre(FITNESS[4:])])
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_one_group_is_the_zscore():
    np.testing.assert_allclose(groups(8)(FITNESS), zscore(FITNESS), rtol=1e-6)


# --- Failed members ranked last


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_failed_members_rank_below_all_others_and_count(antithetic, bad):
    failed = FITNESS.at[jnp.array([2, 5])].set(bad)
    weights = apply(LAST, failed, antithetic=antithetic)
    worst = FITNESS.at[jnp.array([2, 5])].set(-100.0)
    np.testing.assert_array_equal(weights, centred_rank(worst))


def test_where_no_member_failed_ranks_are_the_centred_rank():
    for fitness in (FITNESS, FITNESS.astype(jnp.int32), np.asarray(FITNESS)):
        weights = apply(LAST, fitness, antithetic=True)
        np.testing.assert_allclose(weights, centred_rank(FITNESS), rtol=1e-6)


def test_the_lowest_number_there_is_still_ranks_above_a_failure():
    lowest = float(jnp.finfo(jnp.float32).min)
    weights = apply(LAST, jnp.float32([lowest, jnp.nan, 0, 1]), antithetic=True)
    np.testing.assert_allclose(weights, np.array([1, 0, 2, 3]) / 3 - 0.5, rtol=1e-6)


def test_weights_of_ranks_sum_to_zero_whoever_failed():
    for count in range(9):
        weights = apply(LAST, FITNESS.at[:count].set(jnp.nan), antithetic=True)
        assert abs(float(weights.sum())) < 1e-6


def test_if_all_failed_nothing_weighs_anything_even_when_failures_count():
    weights = apply(LAST, jnp.full(8, jnp.nan), antithetic=True)
    np.testing.assert_array_equal(weights, np.zeros(8))


def test_a_shaping_that_counts_failed_members_says_so():
    """Any callable may: here one by which who failed weighs -1 and nobody else."""

    class Punished:
        counts_failed = True

        def __call__(self, fitness):
            return jnp.where(jnp.isfinite(fitness), 0.0, -1.0)

    failed = FITNESS.at[2].set(jnp.inf)
    weights = apply(Punished(), failed, antithetic=True)
    np.testing.assert_array_equal(weights, -1.0 * (np.arange(8) == 2))
    nothing = apply(Punished(), jnp.full(8, jnp.nan), antithetic=True)
    np.testing.assert_array_equal(nothing, np.zeros(8))


NAN = np.nan


@pytest.mark.parametrize(
    ("shape", "fitness", "expected"),
    [
        (zscore, [1, 2, 3, 4], [1, 1, 1, 1]),
        (zscore, [1, NAN, 3, 4], [0, 0, 1, 1]),
        (zscore, [1, NAN, NAN, 4], [0, 0, 0, 0]),
        (LAST, [1, NAN, NAN, 4], [1, 1, 1, 1]),
        (functools.partial(LAST), [1, NAN, NAN, 4], [1, 1, 1, 1]),
        (LAST, [NAN, NAN, NAN, NAN], [0, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("array", [jnp.array, np.array])
def test_members_that_count(shape, fitness, expected, array):
    found = counted(shape, array(fitness), antithetic=True)
    np.testing.assert_array_equal(found, np.array(expected, bool))


def test_ranks_are_values():
    assert ranks("last") == ranks(failed="last") != ranks()
    assert hash(ranks("last")) == hash(LAST)
    assert pickle.loads(pickle.dumps(LAST)) == LAST


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


@pytest.mark.parametrize("name", ["none", "centre", "zscore", "centred_rank", "ranks"])
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
        ValueError, match="spread must be 'global', 'group' or 'none', got 'pair'"
    ):
        groups(4, spread="pair")


def test_an_unknown_treatment_of_failed_members_is_refused():
    with pytest.raises(ValueError, match="failed must be 'out' or 'last', got 'first'"):
        ranks(failed="first")


def test_an_odd_number_of_members_has_no_pairs_to_compare():
    with pytest.raises(ValueError, match=r"pair_sign compares.*even number.*got 7"):
        pair_sign(FITNESS[:7])


def test_only_the_sign_of_pairs_needs_pairs():
    assert [n for n, shape in SHAPINGS.items() if needs_pairs(shape)] == ["pair_sign"]
    assert needs_pairs(functools.partial(pair_sign))  # as configs hand it on


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2 members to compare"):
        groups(1)


def test_a_group_size_that_does_not_divide_the_population_is_refused():
    with pytest.raises(ValueError, match="groups of 3 and 8 members"):
        groups(3)(FITNESS)


def test_all_shapings_are_named_here():
    public = {n for n in vars(shaping) if not n.startswith("_")}
    makers = {"none", "centre", "zscore", "centred_rank", "ranks", "pair_sign"}
    assert makers | {"groups"} <= public
