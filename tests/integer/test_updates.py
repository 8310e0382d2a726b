import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_egg as reference
from jaxprs import floating_point

from eggroll.integer.updates import accumulating, inverse_time, memoryless, z_score
from eggroll.integer.votes import pair_differences, pair_signs


STEPS = [0, 1, 7, 66, 67, 100, 1000, 10**6]


def test_thresholds_follow_the_published_schedule_at_every_step():
    z = jax.jit(z_score(inverse_time()))
    for step in [*range(300), *STEPS]:
        assert z(step) == reference.z_sixteenths(reference.alpha(step))


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.25, 1 / 16])
def test_thresholds_of_a_constant_share_are_constant(alpha):
    z = z_score(alpha)
    assert {int(z(step)) for step in STEPS} == {reference.z_sixteenths(alpha)}


def weights_and_votes(seed=0, std=500):
    rng = np.random.default_rng(seed)
    weight = rng.integers(-127, 128, (40, 30))
    vote = np.rint(std * rng.standard_normal((40, 30))).astype(int)
    vote[0, :5] = 0
    weight[1], weight[2] = 127, -127
    return jnp.asarray(weight, jnp.int8), jnp.asarray(vote, jnp.int32)


@pytest.mark.parametrize("mode", ["default", "paper"])
@pytest.mark.parametrize("step", [0, 3, 200])
def test_memoryless_updates_agree_with_numpy(mode, step):
    weight, vote = weights_and_votes()
    rule = memoryless(ties_fall=mode == "paper")
    moved, _ = jax.jit(rule.update, static_argnums=4)(vote, (), weight, step, 512)
    needed = reference.threshold(reference.alpha(step), pairs=4)
    expected = reference.update(weight, np.asarray(vote), needed, mode)
    np.testing.assert_array_equal(moved, expected)
    assert moved.dtype == jnp.int8


def test_the_share_that_moves_on_noise_is_alpha():
    rng = np.random.default_rng(0)
    count = 10**5
    vote = jnp.asarray(np.rint(10_000 * rng.standard_normal(count)), jnp.int32)
    weight = jnp.zeros(count, jnp.int8)
    for alpha in (0.5, 0.25, 0.0625):
        moved, _ = memoryless(alpha).update(vote, (), weight, 0, 10_000)
        # z is rounded down to a sixteenth, which lets 2 |dz| φ(z) too many through.
        slack = 5 * (alpha * (1 - alpha) / count) ** 0.5 + 0.8 / 16
        assert alpha - slack < float(jnp.mean(moved != 0)) < alpha + slack


@pytest.mark.parametrize("leak", [None, 2])
@pytest.mark.parametrize("halving", [None, 3])
def test_accumulating_updates_agree_with_numpy(leak, halving):
    rule = accumulating(24, halving=halving, leak=leak)
    update = jax.jit(rule.update, static_argnums=4)
    params, _ = weights_and_votes()
    state, weight, rest = rule.init(params), np.asarray(params), np.zeros((40, 30))
    for step in range(6):
        _, vote = weights_and_votes(step)
        params, state = update(vote, state, params, step, 500)
        needed = 24 + (0 if halving is None else 24 * step // halving)
        weight, rest = reference.accumulate(
            weight, rest, np.asarray(vote), 500, needed, leak
        )
        np.testing.assert_array_equal(params, weight)
        np.testing.assert_array_equal(state, rest)
    assert state.dtype == jnp.int16


def test_accumulating_loses_no_vote():
    rule = accumulating(100)
    weight, state = jnp.zeros(1, jnp.int8), rule.init(jnp.zeros(1, jnp.int8))
    for step in range(50):
        weight, state = rule.update(jnp.array([7]), state, weight, step, 16)
    assert int(weight[0]) * 100 + int(state[0]) == 50 * 7


@pytest.mark.parametrize("rule", [memoryless(), accumulating(16, 50, 3)])
def test_nothing_in_an_update_is_a_float(rule):
    weight, vote = weights_and_votes()
    update = lambda v, s, p, t: rule.update(v, s, p, t, 500)
    assert not floating_point(update, vote, rule.init(weight), weight, jnp.int32(3))


def test_pairs_weigh_by_sign_or_by_difference():
    signs, differences = jax.jit(pair_signs), jax.jit(pair_differences)
    fitness = np.array([5, 3, 3, 3, 0, 4, 1000, 0])
    np.testing.assert_array_equal(signs(fitness), [1, 0, -1, 1])
    # The mean size is (2 + 0 + 4 + 1000) // 4 = 251.
    np.testing.assert_array_equal(differences(fitness), [0, 0, -1, 127])
    np.testing.assert_array_equal(differences(np.zeros(4, np.int32)), [0, 0])
    for weigh in (signs, differences):
        assert weigh(fitness).dtype == jnp.int8
        broken = np.array([1.0, np.nan, 2.0, 1.0])
        np.testing.assert_array_equal(np.sign(weigh(broken)), [0, 1])


@pytest.mark.parametrize("pairs", [1, 7, 3000, 4096])
def test_differences_agree_with_numpy(pairs):
    rng = np.random.default_rng(pairs)
    fitness = np.rint(300 * rng.standard_normal(2 * pairs)).astype(np.int32) - 9000
    got = np.asarray(pair_differences(jnp.asarray(fitness)), int)
    # The mean is taken in two stages here: it may be off by two.
    expected = reference.pair_difference(fitness)
    assert np.max(np.abs(got - expected)) <= 1


def at_the_ends_of(dtype, pairs):
    """Fitness of every size that a type has room for, its extremes included."""
    rng = np.random.default_rng(pairs)
    low, high = jnp.iinfo(dtype).min, jnp.iinfo(dtype).max
    ends = rng.choice(np.array([low, low + 1, 0, 1, high - 1, high], dtype), 2 * pairs)
    small = rng.integers(0, 10, 2 * pairs, dtype=dtype)
    middle = rng.integers(low, high, 2 * pairs, dtype=dtype, endpoint=True)
    mixed = np.choose(rng.integers(0, 3, 2 * pairs), [ends, small, middle])
    return [ends, small, middle, mixed]


def exact_differences(fitness):
    """As `reference.pair_difference`, with integers of any size."""
    values = [int(x) for x in fitness]
    difference = [a - b for a, b in zip(values[0::2], values[1::2], strict=True)]
    rows = math.gcd(len(difference), 1024)
    count = len(difference) // rows
    sizes = [abs(x) for x in difference]
    means = [sum(sizes[i : i + count]) // count for i in range(0, len(sizes), count)]
    unit = max(sum(means) // rows, 1)
    sign = lambda x: (x > 0) - (x < 0)
    return [sign(x) * min((32 * abs(x) + unit // 2) // unit, 127) for x in difference]


TYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


@pytest.mark.parametrize("dtype", TYPES)
def test_differences_are_exact_at_the_ends_of_every_type(dtype):
    with jax.enable_x64(dtype.endswith("64")):
        weigh = jax.jit(pair_differences)
        for pairs in (1, 7, 96, 4099):
            for fitness in at_the_ends_of(dtype, pairs):
                found = weigh(jnp.asarray(fitness))
                np.testing.assert_array_equal(found, exact_differences(fitness))


def test_differences_of_small_types_do_not_wrap_round():
    found = pair_differences(jnp.array([0, 1, 9, 3], jnp.uint8))
    np.testing.assert_array_equal(found, [-11, 64])  # of a mean size of 3
    found = pair_differences(jnp.array([100, -100, 1, 0], jnp.int8))
    np.testing.assert_array_equal(found, [64, 0])
    found = pair_differences(jnp.array([True, False, True, True]))
    np.testing.assert_array_equal(found, [32, 0])
    far = jnp.array([2**31 - 1, -(2**31), 0, 2**30], jnp.int32)
    np.testing.assert_array_equal(pair_differences(far), [51, -13])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: memoryless(0.0), r"\(0, 1\], got 0.0"),
        (lambda: memoryless(1.5), r"\(0, 1\], got 1.5"),
        (lambda: inverse_time(-1), "must not be negative"),
        (lambda: accumulating(0), "between 1 and 4096"),
        (lambda: accumulating(16, leak=0), "leak must be at least 1"),
        (lambda: accumulating(16, halving=0), "halving must be at least 1"),
    ],
)
def test_impossible_rules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
