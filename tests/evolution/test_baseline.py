"""A running baseline, which members are judged against."""

import jax.numpy as jnp
import numpy as np
import pytest
import quick

from eggroll.evolution.baseline import against, baseline_init, baseline_update


def test_a_new_baseline_is_that_of_the_first_generation():
    fitness = np.array([0.0, 1, 1, 0.5])
    baseline = baseline_update(baseline_init(), fitness, half_life=8)
    expected = (fitness - fitness.mean()) / fitness.std()
    np.testing.assert_allclose(against(baseline, fitness), expected, rtol=1e-5)


def test_a_generation_counts_half_after_its_half_life():
    """Mean and spread are those of all members so far, so weighted."""
    generations = np.random.default_rng(0).normal(3, 2, (7, 4))
    weights = np.repeat(0.5 ** (np.arange(7)[::-1] / 3), 4)
    seen = generations.reshape(-1)
    mean = np.average(seen, weights=weights)
    spread = np.sqrt(np.average((seen - mean) ** 2, weights=weights))
    for kind in (np.asarray, jnp.asarray):
        baseline = baseline_init()
        for fitness in generations:
            baseline = baseline_update(baseline, kind(fitness), half_life=3)
        np.testing.assert_allclose(baseline.weight, 1 - 0.5 ** (7 / 3), rtol=1e-5)
        np.testing.assert_allclose(baseline.mean, mean, rtol=1e-5)
        np.testing.assert_allclose(baseline.spread, spread, rtol=1e-5)


@pytest.mark.parametrize(("size", "offset"), [(1e-30, 0), (1e25, 0), (1.0, 1e9)])
def test_units_and_offsets_of_fitness_change_nothing(size, offset):
    generations = np.random.default_rng(1).normal(0, 1, (5, 6))
    plain, other = baseline_init(), baseline_init()
    for fitness in generations:
        plain = baseline_update(plain, fitness, 4)
        other = baseline_update(other, size * fitness + offset, 4)
    found = against(other, size * generations[0] + offset)
    np.testing.assert_allclose(found, against(plain, generations[0]), rtol=1e-4)


def test_two_members_are_told_by_how_much_they_differ_where_a_z_score_is_not():
    baseline = baseline_init()
    for step in range(50):
        fitness = 0.5 + 0.1 * (-1.0) ** np.arange(2) * (1 + step % 2)
        baseline = baseline_update(baseline, fitness, half_life=8)
    small, large = (
        against(baseline, np.array([0.5 + d, 0.5 - d])) for d in (0.01, 0.1)
    )
    np.testing.assert_allclose(10 * small, large, rtol=1e-3)


def test_a_baseline_that_never_varied_gives_zeros_and_no_numbers_stay_so():
    baseline = baseline_init()
    np.testing.assert_array_equal(against(baseline, np.array([1.0, 2.0])), [0, 0])
    for _ in range(5):
        baseline = baseline_update(baseline, np.full(4, 0.1), half_life=2)
    found = against(baseline, np.array([0.1, np.nan]))
    np.testing.assert_array_equal(found, [0, np.nan])


def test_what_failed_is_left_out_of_the_baseline():
    fitness = np.array([0.0, 1, np.nan, np.inf])
    update = quick.jit(lambda b, f: baseline_update(b, f, 8.0))
    found = update(baseline_init(), jnp.asarray(fitness))
    expected = baseline_update(baseline_init(), fitness[:2], 8.0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    nothing = update(found, jnp.full(4, jnp.nan))
    np.testing.assert_allclose(nothing, found, rtol=1e-6)
