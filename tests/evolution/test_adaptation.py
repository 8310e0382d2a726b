import dataclasses
import functools
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

import eggroll
from eggroll.evolution.adaptation import one_fifth_success, spread_target


KEY = jax.random.key(0)
MEMBERS = 64
RULES = {
    "centre": (one_fifth_success(0.1), True),
    "generation before": (one_fifth_success(0.1), False),
    "spread": (spread_target(0.1), False),
}
each_rule = pytest.mark.parametrize(
    ("rule", "with_centre"), RULES.values(), ids=RULES.keys()
)


def scattered(seed, *shape):
    """Numbers that float32 has room to scale and to shift."""
    return np.random.default_rng(seed).integers(-512, 512, shape) / 64


@functools.partial(quick.jit, static_argnums=(0, 2))
def sigmas(rule, generations, with_centre=False):
    """The sigma after each generation, of which the first number is the centre."""

    def step(state, fitness):
        centre = fitness[0] if with_centre else None
        return rule.update(state, fitness[1:], centre=centre)

    return jax.lax.scan(step, rule.init(), generations)[1]


@functools.partial(quick.jit, static_argnums=(0, 1, 2, 3))
def run(rule, fitness, with_centre=False, steps=2000, key=KEY, start=0.1):
    """The sigmas of a run on `fitness(key, sigma, step, members)`."""
    begin = rule.init()._replace(sigma=jnp.float32(start))

    def step(state, at):
        one, other = jax.random.split(jax.random.fold_in(key, at))
        values = fitness(one, state.sigma, at, MEMBERS)
        centre = fitness(other, 0 * state.sigma, at, 2)[0] if with_centre else None
        return rule.update(state, values, centre=centre)

    return jax.lax.scan(step, begin, jnp.arange(steps))[1]


def noise(key, sigma, step, members):
    return jax.random.normal(key, (members,))


def slope(key, sigma, step, members):
    half = sigma * jax.random.normal(key, (members // 2,))
    return jnp.stack([half, -half], axis=1).reshape(-1)


def bowl(curvature, at):
    """The fitness of pairs about a point that does not move: -1/2 sum h x^2."""

    def fitness(key, sigma, step, members):
        e = jax.random.normal(key, (members // 2, at.size))
        x = at + sigma * jnp.stack([e, -e], axis=1).reshape(members, -1)
        return -jnp.sum(curvature * x**2, axis=1) / 2

    return fitness


# --- What every rule keeps


@each_rule
@pytest.mark.parametrize(
    ("factor", "offset"), [(4, 0), (2.0**-20, 0), (1, 4096), (8, -64)]
)
def test_the_scale_of_fitness_changes_nothing(rule, with_centre, factor, offset):
    runs = jnp.asarray(scattered(1, 20, MEMBERS + 1), jnp.float32)
    plain = sigmas(rule, runs, with_centre)
    assert np.unique(plain).size > 10
    np.testing.assert_array_equal(
        sigmas(rule, factor * runs + offset, with_centre), plain
    )


@each_rule
def test_small_differences_beside_a_large_offset_count_on_the_host(rule, with_centre):
    state = shifted = rule.init()
    for row in scattered(2, 4, MEMBERS + 1):
        centre = row[0] if with_centre else None
        state, _ = rule.update(state, row[1:], centre=centre)
        centre = row[0] + 1e9 if with_centre else None
        shifted, _ = rule.update(shifted, row[1:] + 1e9, centre=centre)
    assert shifted.sigma == state.sigma != rule.sigma
    assert all(x.dtype == jnp.float32 for x in shifted)


@each_rule
def test_sigma_stays_within_its_bounds_and_moves_by_bounded_steps(rule, with_centre):
    rule = dataclasses.replace(rule, lowest=0.07, highest=0.13, leak=0.1)
    scales = np.resize([1, 30], (300, 1))  # by turns, in blocks of 50
    scales = np.sort(scales.reshape(6, 50), axis=1).reshape(300, 1)
    runs = scales * scattered(3, 300, MEMBERS + 1) + np.arange(300)[:, None] ** 1.5
    found = sigmas(rule, jnp.asarray(runs, jnp.float32), with_centre)
    assert found.min() >= np.float32(0.07)
    assert found.max() <= np.float32(0.13)
    most = rule.rate + rule.leak * math.log(1 / 0.7)
    moves = np.diff(np.log(np.concatenate([[0.1], found])))
    assert np.abs(moves).max() <= most * 1.001
    assert np.abs(moves).max() > 0.01


@each_rule
def test_a_plateau_leaves_sigma_to_the_leak_alone(rule, with_centre):
    flat = jnp.full((10, MEMBERS + 1), 0.3)
    np.testing.assert_array_equal(sigmas(rule, flat, with_centre), np.float32(0.1))
    state = rule.init()._replace(sigma=jnp.float32(0.4))
    state, sigma = rule.update(state, flat[0, 1:], centre=flat[0, 0])
    assert sigma == pytest.approx(0.4 * 4**-rule.leak, rel=1e-6)
    without = dataclasses.replace(rule, leak=0)
    state = without.init()._replace(sigma=jnp.float32(0.4))
    assert without.update(state, flat[0, 1:], centre=flat[0, 0])[1] == np.float32(0.4)


@each_rule
@pytest.mark.parametrize("failure", [jnp.nan, jnp.inf, -jnp.inf])
def test_failed_members_are_left_out(rule, with_centre, failure):
    runs = jnp.asarray(scattered(4, 6, MEMBERS + 1), jnp.float32)
    kept = np.delete(runs, [1, 2, 9, 10], axis=1)  # two pairs
    some = runs.at[:, jnp.array([1, 2, 9, 10])].set(failure)
    np.testing.assert_allclose(
        sigmas(rule, some, with_centre),
        sigmas(rule, jnp.asarray(kept), with_centre),
        1e-6,
    )


@each_rule
def test_a_generation_of_failures_changes_nothing(rule, with_centre):
    row = jnp.asarray(scattered(5, MEMBERS), jnp.float32)
    state, _ = rule.update(rule.init(), row, centre=row[0])
    state = state._replace(sigma=jnp.float32(0.2))
    for fitness in (jnp.full(MEMBERS, jnp.nan), np.full(MEMBERS, -np.inf)):
        after, sigma = rule.update(state, fitness, centre=1.0 if with_centre else None)
        assert (after, sigma) == (state, state.sigma)
    after, _ = one_fifth_success(0.1).update(state, row, centre=jnp.nan)
    assert after == state


@each_rule
def test_failed_members_do_not_trip_the_search_for_nan(rule, with_centre):
    row = jnp.asarray(scattered(6, MEMBERS), jnp.float32).at[3].set(jnp.inf)
    with jax.debug_nans(True):
        state, _ = rule.update(rule.init(), row, centre=0.0 if with_centre else None)
        quick.jit(rule.update)(state, jnp.full(MEMBERS, jnp.inf))


@pytest.mark.parametrize("dtype", ["bfloat16", "int32", "uint8", "bool"])
@each_rule
def test_fitness_may_have_any_type(rule, with_centre, dtype):
    row = jnp.asarray(np.arange(MEMBERS) % 2, dtype)
    state, _ = rule.update(rule.init(), row, centre=row[0] if with_centre else None)
    state, sigma = rule.update(state, row, centre=row[0] if with_centre else None)
    assert sigma.dtype == jnp.float32
    assert np.isfinite(sigma)


def test_seeds_side_by_side_adapt_as_one_by_one():
    keys = jax.random.split(KEY, 3)
    for rule in (one_fifth_success(0.1), spread_target(0.1)):
        known = rule, noise, False, 20
        together = jax.vmap(lambda key: run(*known, key))(keys)  # noqa: B023
        np.testing.assert_allclose(together, [run(*known, key) for key in keys], 1e-6)


def test_rules_are_values():
    rules = [one_fifth_success(0.1), spread_target(0.1), spread_target(0.1, rate=0.2)]
    assert len({*rules, *pickle.loads(pickle.dumps(rules))}) == 3
    state = quick.jit(lambda rule: rule.init(), static_argnums=0)(rules[0])
    assert state.sigma == np.float32(0.1)


# --- What they steer to


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.3, 0.5])
def test_sigma_grows_with_the_share_of_successes(share):
    rule = one_fifth_success(0.1, rate=0.1)
    row = jnp.where(jnp.arange(20) < 20 * share, 1.0, -1.0)
    _, sigma = rule.update(rule.init(), row, centre=0.0)
    expected = 0.1 * math.exp(0.1 * min(5 * share - 1, 1))
    assert sigma == pytest.approx(expected, rel=1e-6)


def test_ties_with_the_centre_are_neither_success_nor_failure():
    rule = one_fifth_success(0.1, rate=0.1)
    row = jnp.asarray([1.0] * 2 + [0.0] * 14 + [-1.0] * 4)
    _, sigma = rule.update(rule.init(), row, centre=0.0)
    assert sigma == pytest.approx(0.1 * math.exp(0.1 * (4 * 2 - 4) / 20), rel=1e-6)


@pytest.mark.parametrize("target", [0.5, 1.0, 2.0])
def test_sigma_grows_with_the_spread_within_pairs(target):
    half, mean = scattered(7, 2, 16)
    found = []
    for factor in (0.1, 1.0, 10.0):
        row = np.stack([mean + factor * half, mean - factor * half], axis=1).reshape(-1)
        rule = spread_target(0.1, target=target, rate=0.1)
        within, between = target**2 * factor**2 * np.mean(half**2), np.var(mean, ddof=1)
        signal = (within - between) / (within + between)
        found.append(rule.update(rule.init(), jnp.float32(row))[1])
        assert found[-1] == pytest.approx(0.1 * math.exp(0.1 * signal), rel=1e-5)
    assert found == sorted(found)


@pytest.mark.parametrize("make", [one_fifth_success, spread_target])
def test_sigma_settles_on_a_quadratic_where_the_documentation_says(make):
    curvature = jnp.linspace(0.5, 1.5, 200)
    at = jax.random.normal(KEY, (200,))
    size = jnp.linalg.norm(curvature * at)
    if make is one_fifth_success:
        expected = 1.683 * size / jnp.sum(curvature)
    else:
        expected = math.sqrt(2) * size / jnp.linalg.norm(curvature)
    rule = make(0.1, leak=0, lowest=1e-4, highest=100)
    known = rule, bowl(curvature, at), rule.uses_centre, 600, KEY
    found = jax.vmap(lambda start: run(*known, start))(jnp.array([0.01, 10.0]))
    settled = jnp.exp(jnp.mean(jnp.log(found[:, 300:]), axis=1))
    np.testing.assert_allclose(settled, expected, rtol=0.05)


# --- What does not carry them away, for 2000 generations


def test_mere_noise_keeps_a_spread_target_in_a_band():
    found = jax.vmap(lambda key: run(spread_target(0.1), noise, False, 2000, key))
    logs = np.log(found(jax.random.split(KEY, 8)) / 0.1)
    width = 0.1 / math.sqrt(0.01 * MEMBERS)
    assert np.abs(logs).max() < 5 * width
    assert logs.std() == pytest.approx(width, rel=0.2)
    assert abs(logs.mean()) < 0.3 * width


def test_without_the_leak_noise_adds_up():
    rule = spread_target(0.1, leak=0, lowest=1e-4, highest=100)
    found = jax.vmap(lambda key: run(rule, noise, False, 2000, key)[-1])
    logs = np.log(found(jax.random.split(KEY, 32)) / 0.1)
    assert logs.std() == pytest.approx(0.1 * math.sqrt(2 * 2000 / MEMBERS), rel=0.5)


def test_mere_noise_takes_successes_without_a_centre_where_the_documentation_says():
    found = run(one_fifth_success(0.1, lowest=1e-4), noise)
    assert np.abs(np.log(found[500:] / (0.1 * math.exp(-2)))).max() < 0.7
    assert np.log(found[500:] / 0.1).mean() == pytest.approx(-2, abs=0.25)


def test_noise_in_the_centre_too_widens_sigma_to_its_bound():
    found = run(one_fifth_success(0.1), noise, True)
    assert found[500:].mean() == pytest.approx(1.0, rel=0.1)
    assert found.max() == 1


def test_steady_progress_is_not_seen_within_a_generation():
    drifting = lambda key, sigma, step, members: (
        noise(key, sigma, step, members) + 0.5 * step
    )
    still = run(spread_target(0.1), noise)
    np.testing.assert_allclose(run(spread_target(0.1), drifting), still, 1e-2)
    rule = one_fifth_success(0.1)
    found = run(rule, drifting, True)
    np.testing.assert_allclose(found, run(rule, noise, True), 1e-2)


@each_rule
def test_a_slope_widens_sigma_to_its_bound_and_no_further(rule, with_centre):
    climbing = lambda key, sigma, step, members: (
        slope(key, sigma, step, members) + 0.5 * step
    )
    found = run(rule, climbing, with_centre)
    assert found.min() > 0.09
    assert found[-500:].max() <= 1
    assert found[-500:].min() > 0.5


# --- With a strategy


@functools.partial(quick.jit, static_argnums=0)
def descent(rule, start, adapts, key=KEY):
    """Distances from the optimum of a quadratic, in steps that are long as sigma is."""
    es = eggroll.EvolutionStrategy(
        MEMBERS, 1.0, rank=None, noise="gaussian", antithetic=rule.needs_pairs
    )
    curvature = jnp.linspace(1, 3, 16)
    fitness = lambda x: -jnp.sum(curvature * x**2)

    def step(carry, at):
        x, state = carry
        now = dataclasses.replace(es, sigma=state.sigma)
        values, generation = now.ask(fitness)(x, key, step=at)
        centre = fitness(x) if rule.uses_centre else None
        x = x - 0.15 * state.sigma**2 * now.gradient(generation, values)
        new, _ = rule.update(state, values, centre=centre)
        new = jax.tree.map(lambda x, y: jnp.where(adapts, x, y), new, state)
        return (x, new), (jnp.linalg.norm(x), new.sigma)

    begin = jnp.ones(16), rule.init()._replace(sigma=jnp.float32(start))
    return jax.lax.scan(step, begin, jnp.arange(300))[1]


@pytest.mark.parametrize(
    "make",
    [one_fifth_success, pytest.param(spread_target, marks=pytest.mark.slow)],
)
def test_sigma_that_was_wrong_adapts_and_arrives_where_a_fixed_one_does_not(make):
    rule = make(0.1, leak=0, lowest=1e-6, highest=10)
    starts = jnp.array([0.005, 5.0, 0.005, 5.0])
    adapts = jnp.array([True, True, False, False])
    distance, sigma = jax.vmap(functools.partial(descent, rule))(starts, adapts)
    small, large, *fixed = distance[:, -1]
    assert small < 0.1 * fixed[0]
    if not rule.needs_pairs:  # with them, a large one does no harm on a quadratic
        assert large < 0.1 * fixed[1]
    # As seen from the optimum, the same sigma, whatever it began with.
    ratio = jnp.log(sigma / distance)[:2, 200:].mean(axis=1)
    assert abs(ratio[0] - ratio[1]) < 0.3


@pytest.mark.slow
def test_descents_side_by_side_equal_those_one_by_one():
    rule = spread_target(0.1, leak=0, lowest=1e-6, highest=10)
    starts = jnp.array([0.005, 5.0, 0.005, 5.0])
    together = jax.vmap(lambda start: descent(rule, start, True))(starts)
    for one in (0, 1):
        for found, alone in zip(
            together, descent(rule, starts[one], True), strict=True
        ):
            np.testing.assert_allclose(found[one, :5], alone[:5], 1e-5)


# --- What cannot be


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0.0}, "sigma must be positive and finite, got 0.0"),
        ({"sigma": "0.1"}, "sigma must be positive and finite, got '0.1'"),
        ({"target": 0.5}, "target must be below 0.5, as on a slope every second"),
        ({"target": -1}, "target must be positive and finite, got -1"),
        (
            {"rate": 3},
            "rate must be above 0 and at most 1, got 3",
        ),
        ({"leak": -0.1}, "leak must be from 0 to 1, got -0.1"),
        ({"lowest": 0.2}, "expected lowest <= sigma <= highest, got 0.2, 0.1, 1.0"),
        ({"highest": math.inf}, "highest must be positive and finite, got inf"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        one_fifth_success(**{"sigma": 0.1, **settings})


def test_fitness_of_another_shape_is_refused():
    rule = spread_target(0.1)
    with pytest.raises(ValueError, match=r"shape \(members,\), in pairs, got \(3,\)"):
        rule.update(rule.init(), jnp.zeros(3))
    rule = one_fifth_success(0.1)
    with pytest.raises(ValueError, match=r"shape \(members,\), got \(2, 2\)"):
        rule.update(rule.init(), jnp.zeros((2, 2)))
