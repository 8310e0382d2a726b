import jax.numpy as jnp
import numpy as np
import pytest
import reference_egg as reference

from models.integer_math import (
    EXP2,
    Rounding,
    divide,
    exp2_sixteenths,
    log2_sixteenths,
    shift_right,
)


MODES: dict[str, Rounding] = {"default": "nearest", "paper": "floor"}
each_mode = pytest.mark.parametrize("mode", MODES)


def log2_table(x):
    """The published table's formula, in double precision, for a whole array."""
    return np.trunc(16 * np.log2(x.astype(np.float64) / 16)).astype(np.int32)


def test_log2_equals_the_published_table_wherever_the_table_steps():
    # Both are non-decreasing, so agreeing on both sides of each of the table's steps
    # and at the ends means agreeing on all of the 2^28 entries (and beyond).
    exponents = np.arange(0, 16 * 27)
    steps = np.ceil(16 * 2.0 ** (exponents / 16)).astype(np.int64)
    points = np.unique(np.concatenate([steps + d for d in range(-2, 3)]))
    points = points[(points >= 16) & (points < 2**31)].astype(np.int32)
    got = np.asarray(log2_sixteenths(jnp.asarray(points)))
    np.testing.assert_array_equal(got, log2_table(points))
    assert got.max() - got.min() == len(steps) - 1, "a step of the table was missed"
    assert np.all(np.diff(got) >= 0)


def test_log2_equals_the_published_table_on_contiguous_and_random_ranges():
    rng = np.random.default_rng(0)
    low = np.arange(16, 2**20)
    high = np.arange(2**28 - 2**18, 2**28)
    points = np.concatenate([low, high, rng.integers(16, 2**31, 2**20)])
    got = log2_sixteenths(jnp.asarray(points, jnp.int32))
    np.testing.assert_array_equal(got, log2_table(points))


def test_exp2_is_the_published_table():
    logits = jnp.arange(-128, 128).astype(jnp.int8)
    np.testing.assert_array_equal(exp2_sixteenths(logits), reference.EXP2)
    assert EXP2[-1] == 1_004_119


@each_mode
def test_division_equals_true_division_for_every_pair_of_operands(mode):
    x = np.arange(-(127**2), 127**2 + 1)[:, None]
    by = np.arange(1, 128)[None]
    got = divide(jnp.asarray(x, jnp.int32), jnp.asarray(by, jnp.int32), MODES[mode])
    np.testing.assert_array_equal(
        got, reference.saturate(reference.divide(x, by, mode))
    )


@each_mode
@pytest.mark.parametrize("bits", [0, 1, 4, 8])
def test_shift_equals_division_by_a_power_of_two(mode, bits):
    x = np.concatenate([np.arange(-1030, 1031), [2**30 - 1, 1 - 2**30]])
    got = shift_right(jnp.asarray(x, jnp.int32), bits, MODES[mode])
    np.testing.assert_array_equal(got, reference.divide(x, 2**bits, mode))


def test_rounding_to_nearest_is_odd():
    x = jnp.arange(-5000, 5001)
    assert jnp.all(shift_right(-x, 4) == -shift_right(x, 4))
    assert jnp.all(divide(-x, jnp.asarray(6)) == -divide(x, jnp.asarray(6)))
