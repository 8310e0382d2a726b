"""Diagnostics by value, on inputs of which each can be found by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick

import eggroll
from eggroll.training import diagnostics


NAN, INF = math.nan, math.inf


def population(fitness, **aux):
    fitness = fitness if isinstance(fitness, jax.Array) else jnp.float32(fitness)
    found = jax.jit(diagnostics.of_population)(fitness, aux)
    return {name.removeprefix("fitness/"): float(x) for name, x in found.items()}


def updated(old, new, updates, grads=None):
    found = jax.jit(diagnostics.of_update)(
        old, new, updates, updates if grads is None else grads
    )
    return {name: float(x) for name, x in found.items()}


def update(old, new, updates, grads=None):
    found = updated(old, new, updates, grads)
    names = "gradient/norm", "update/ratio", "update/lost"
    return {name.split("/")[1]: found[name] for name in names}


# --- of a population


def test_statistics_of_fitness():
    found = population([1.0, 2.0, 4.0, 9.0])
    assert (found["mean"], found["best"]) == (4.0, 9.0)
    assert (found["median"], found["worst"]) == (3.0, 1.0)
    assert found["spread"] == pytest.approx(math.sqrt((9 + 4 + 0 + 25) / 4))
    assert (found["tied"], found["nonfinite"], found["samples"]) == (0, 0, 4)


@pytest.mark.parametrize("failure", [NAN, INF, -INF])
def test_failed_members_are_counted_and_left_out_of_the_rest(failure):
    found = population([1.0, failure, 3.0, failure])
    assert (found["mean"], found["best"], found["spread"]) == (2.0, 3.0, 1.0)
    assert (found["median"], found["worst"]) == (2.0, 1.0)
    assert found["nonfinite"] == 0.5


@pytest.mark.parametrize("failure", [NAN, INF, -INF])
def test_failed_members_are_no_ties(failure):
    assert population([1.0, failure, failure, failure])["tied"] == 0


def test_a_population_that_failed_has_no_statistics():
    found = population([NAN, INF])
    assert math.isnan(found["mean"])
    assert math.isnan(found["spread"])
    assert math.isnan(found["median"])
    assert not math.isfinite(found["best"])
    assert not math.isfinite(found["worst"])
    assert (found["nonfinite"], found["tied"], found["samples"]) == (1, 0, 2)


@pytest.mark.parametrize(
    ("fitness", "share"),
    [
        ([5.0, 5.0, 5.0, 5.0], 1),
        ([3.0, 1.0, 3.0, 2.0], 2 / 4),
        ([1.0, 2.0, 2.0, 1.0, 0.0], 4 / 5),
        ([1.0, 1.0, 1.0, NAN], 3 / 4),
        ([0.0, -0.0], 1),
        ([7.0], 0),
    ],
)
def test_tied_is_the_share_of_members_that_another_one_equals(fitness, share):
    assert population(fitness)["tied"] == pytest.approx(share)


def test_a_population_of_one_has_no_spread():
    found = population([7.0])
    assert (found["mean"], found["best"], found["spread"]) == (7.0, 7.0, 0.0)


def test_fitness_in_bfloat16_is_averaged_more_precisely_than_it_is_kept():
    """1024 members of 1 and as many of 1 + 1/128: their mean is no bfloat16."""
    fitness = jnp.tile(jnp.bfloat16([1.0, 1 + 1 / 128]), 1024)
    found = population(fitness)
    assert found["mean"] == pytest.approx(1 + 1 / 256, abs=1e-5)
    assert found["spread"] == pytest.approx(1 / 256, rel=1e-2)
    assert (found["tied"], found["nonfinite"]) == (1, 0)


def test_shares_of_many_members_in_bfloat16_do_not_saturate():
    fitness = jnp.concatenate([jnp.arange(2.0), jnp.full(2046, NAN)])
    found = population(fitness.astype(jnp.bfloat16))
    assert found["nonfinite"] == pytest.approx(2046 / 2048)
    assert found["samples"] == 2048


def test_integers_are_fitness_too():
    found = population(jnp.array([1, 2, 2, 7], jnp.int32))
    assert (found["mean"], found["best"], found["tied"]) == (3.0, 7.0, 0.5)
    assert found["samples"] == 4


def test_samples_are_the_steps_that_the_members_told():
    found = population([1.0, NAN, 3.0], steps=jnp.array([10, 20, 30], jnp.int32))
    assert found["samples"] == 60


def test_metrics_are_means_over_the_members():
    metrics = {"length": jnp.array([1.0, 2.0, 6.0]), "wins": jnp.array([1, 0, 0])}
    found = population([0.0, 0.0, 0.0], metrics=metrics)
    assert found["length"] == 3.0
    assert found["wins"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "fitness", [[5.0], [1.0, 9.0, 2.0], [4.0, NAN, 1.0, 2.0, INF, 3.0], [3e38, 2e38]]
)
def test_the_median_is_that_of_the_members_that_did_not_fail(fitness):
    expected = np.median([x for x in fitness if math.isfinite(x)])
    assert population(fitness)["median"] == pytest.approx(expected)


# --- of their weights


def weighed(weights, counted=None):
    counted = np.ones(len(weights), bool) if counted is None else counted
    found = jax.jit(diagnostics.of_weights)(jnp.float32(weights), jnp.array(counted))
    return {name.split("/")[1]: float(x) for name, x in found.items()}


@pytest.mark.parametrize(
    ("weights", "share"),
    [
        ([0.5, -0.5, -0.5, 0.5], 1),
        ([3.0, 0.0, 0.0, 0.0], 1 / 4),
        ([1.0, -1.0, 0.0, 0.0], 2 / 4),
        ([3.0, 1.0], 16 / (2 * 10)),
        ([3e38, -3e38], 1),
        ([1e-30, 0.0], 1 / 2),
        ([0.0, 0.0], 0),
    ],
)
def test_the_effective_share_is_that_of_members_that_weigh_the_same(weights, share):
    assert weighed(weights)["effective"] == pytest.approx(share)


def test_the_effective_share_of_normal_weights_is_two_in_pi():
    weights = np.random.default_rng(0).normal(size=100_000)
    assert weighed(weights)["effective"] == pytest.approx(2 / math.pi, abs=0.01)


def test_the_largest_weight_is_that_of_the_largest_size():
    assert weighed([1.0, -4.0, 3.0])["largest"] == 4.0


def test_unusable_is_the_share_of_members_that_do_not_count():
    assert weighed([1.0, 0.0, 0.0, 2.0], [1, 0, 1, 1])["unusable"] == 1 / 4


# --- agreement of two halves


@pytest.mark.parametrize(
    ("half", "other", "cosine"),
    [
        ([1.0, 0.0], [3.0, 0.0], 1),
        ([1.0, 0.0], [-2.0, 0.0], -1),
        ([1.0, 0.0], [0.0, 5.0], 0),
        ([3.0, 4.0], [4.0, 3.0], 24 / 25),
    ],
)
def test_agreement_is_the_cosine_between_the_halves(half, other, cosine):
    half, other = jnp.array(half), jnp.array(other)
    assert diagnostics.agreement(half + other, half) == pytest.approx(cosine, abs=1e-6)


def test_agreement_is_that_of_all_leaves_together():
    half = {"a": jnp.array([1.0, 0.0]), "b": jnp.array([[2.0]])}
    other = {"a": jnp.array([0.0, 1.0]), "b": jnp.array([[2.0]])}
    whole = optax.tree.add(half, other)
    assert diagnostics.agreement(whole, half) == pytest.approx(4 / 5)


def test_agreement_tells_the_signal_to_noise_ratio_of_a_half():
    """s/(1 + s): the gradient (1, ..., 1) with noise of variance 1/s in each entry."""
    random = np.random.default_rng(0)
    for s in (0.25, 1.0, 4.0):
        halves = 1 + random.normal(size=(2, 20_000)) / math.sqrt(s)
        found = diagnostics.agreement(
            jnp.float32(halves.sum(axis=0)), jnp.float32(halves[0])
        )
        assert found == pytest.approx(s / (1 + s), abs=5 / math.sqrt(20_000))


def test_the_halves_of_a_population_agree_as_far_as_their_noise_lets_them():
    """Of a linear fitness of d weights, signs as noise, and n pairs a half.

    A half's error has (d - 1)/n of the squared norm of its signal: s = n/(d - 1).
    """
    size, pairs = 257, 128
    es = eggroll.EvolutionStrategy(
        4 * pairs, sigma=0.1, rank=None, shaping=eggroll.shaping.none
    )

    def found(key):
        fitness, generation = es.ask(jnp.sum)(jnp.zeros(size), key)
        is_half = jnp.arange(4 * pairs) // 2 % 2 == 0
        half = es.combine(generation, jnp.where(is_half, fitness, 0))
        return diagnostics.agreement(es.combine(generation, fitness), half)

    keys = jax.random.split(jax.random.key(0), 64)
    cosines = np.asarray(quick.jit(jax.vmap(found))(keys))
    s = pairs / (size - 1)
    assert abs(cosines.mean() - s / (1 + s)) < 5 * cosines.std() / 8 + 1 / size


# --- of an update


def test_the_ratio_is_that_of_the_norms_over_all_leaves():
    old = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    updates = {"a": jnp.array([0.0, 0.3]), "b": jnp.array([[0.4]])}
    found = update(old, optax.apply_updates(old, updates), updates)
    assert found["ratio"] == pytest.approx(0.5 / 5)


def test_the_norm_of_the_gradient_is_that_of_the_gradient_not_of_the_update():
    old, updates = jnp.ones(2), jnp.array([0.1, 0.1])
    found = update(old, old + updates, updates, grads=jnp.array([6.0, -8.0]))
    assert found["norm"] == pytest.approx(10)


def test_updates_too_small_for_bfloat16_are_lost():
    """Near 1, bfloat16 has steps of 1/128: three of four updates vanish."""
    old = jnp.ones(5, jnp.bfloat16)
    updates = jnp.array([0.5, 1e-3, -1e-3, 1e-4, 0.0])
    new = optax.apply_updates(old, updates)
    assert update(old, new, updates)["lost"] == pytest.approx(3 / 4)


def test_updates_of_zero_are_not_lost():
    old, updates = jnp.ones(3), jnp.zeros(3)
    found = update(old, old, updates)
    assert (found["lost"], found["ratio"]) == (0, 0)


def test_master_weights_lose_no_update_of_their_own():
    """What the optimiser hands on is the difference of rounded weights."""
    optimizer = eggroll.with_master_weights(optax.sgd(1.0))
    old = jnp.ones(4, jnp.bfloat16)
    grads = jnp.array([-0.5, 1e-3, -1e-3, 0.0])
    updates, _ = optimizer.update(grads, optimizer.init(old), old)
    found = update(old, optax.apply_updates(old, updates), updates, grads)
    assert found["lost"] == 0
    assert found["ratio"] == pytest.approx(0.5 / 2)


def test_sizes_are_root_mean_squares_of_weights_and_of_what_was_to_move():
    old = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([[0.0]])}
    updates = {"a": jnp.array([0.0, 0.3]), "b": jnp.array([[0.4]])}
    found = updated(old, optax.apply_updates(old, updates), updates)
    assert found["parameters/rms"] == pytest.approx(5 / math.sqrt(3))
    assert found["update/rms"] == pytest.approx(0.5 / math.sqrt(2))


def test_the_leaf_that_moves_most_for_its_size_is_told():
    old = {"a": jnp.full(4, 2.0), "b": jnp.array([3.0]), "c": jnp.full((2, 2), 2.0)}
    updates = {"a": jnp.full(4, 0.1), "b": jnp.array([0.6]), "c": jnp.full((2, 2), 0.2)}
    found = updated(old, optax.apply_updates(old, updates), updates)
    assert (found["update/leaf"], found["update/largest"]) == (1, pytest.approx(0.2))


def test_a_leaf_of_zeros_is_measured_by_the_weights_of_all():
    old = {"bias": jnp.zeros(3), "kernel": jnp.ones(9)}
    updates = {"bias": jnp.full(3, 0.3), "kernel": jnp.full(9, 0.1)}
    found = updated(old, optax.apply_updates(old, updates), updates)
    assert found["update/leaf"] == 0
    assert found["update/largest"] == pytest.approx(0.3 / math.sqrt(9 / 12))


def test_the_leaf_of_largest_weights_is_told_by_how_much_they_are_larger():
    old = {"a": jnp.full(4, 2.0), "b": jnp.array([6.0]), "c": jnp.full((2, 2), 2.0)}
    found = updated(old, old, jax.tree.map(jnp.zeros_like, old))
    assert found["parameters/leaf"] == 1
    assert found["parameters/largest"] == pytest.approx(3)


def test_one_leaf_alone_is_larger_than_no_other():
    assert math.isnan(
        updated(jnp.ones(3), jnp.ones(3), jnp.ones(3))["parameters/largest"]
    )
