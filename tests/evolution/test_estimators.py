"""What every estimator of a gradient by evolution promises: the battery."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from estimators import (
    PARAMS,
    POPULATION,
    REPEATS,
    SHAPINGS,
    SIGNS,
    WEIGHTS,
    each_estimator,
    facts,
    make,
    sigma,
    squared_errors,
)

from eggroll import EvolutionStrategy


def standard_error(samples):
    return np.std(samples, axis=0) / len(samples) ** 0.5


# --- Identities, exact to rounding


@each_estimator
def test_a_written_out_member_is_what_was_evaluated(name):
    members = facts(name).members
    used = (
        np.sum(members[k] * SIGNS[k], axis=tuple(range(2, members[k].ndim)))
        for k in PARAMS
    )
    np.testing.assert_allclose(facts(name).fitness, sum(used), atol=1e-4)


@each_estimator
def test_gradient_is_the_weighted_sum_of_the_perturbations(name):
    for k, mean in PARAMS.items():
        moved = facts(name).members[k] - np.asarray(mean)
        total = np.einsum("n,rn...->r...", WEIGHTS["random"], moved)
        expected = -total / (POPULATION * sigma(name, k) ** 2)
        np.testing.assert_allclose(facts(name).grads["random"][k], expected, atol=1e-4)


@each_estimator
def test_antithetic_members_mirror_each_other_about_the_mean(name):
    if not make(name, 2).antithetic:
        pytest.skip("has no pairs")
    for k, mean in PARAMS.items():
        plus, minus = (facts(name).members[k][:, i::2] for i in (0, 1))
        middle = np.broadcast_to(mean, plus.shape)
        np.testing.assert_allclose((plus + minus) / 2, middle, atol=1e-6)
        assert np.mean(plus != minus) > 0.25


@each_estimator
def test_gradient_of_a_constant_fitness_is_zero(name):
    if not make(name, 2).antithetic:
        pytest.skip("needs shaping, which gives a constant the weight zero")
    assert not any(np.any(g) for g in facts(name).grads["constant"].values())


# --- Statistics, each with its own standard error


@each_estimator
def test_perturbations_have_standard_deviation_sigma_whatever_the_rank(name):
    independent = slice(None, None, 2 if make(name, 2).antithetic else 1)
    for k, mean in PARAMS.items():
        moved = (facts(name).members[k] - np.asarray(mean)) / sigma(name, k)
        squares = moved[:, independent].reshape(-1, *mean.shape) ** 2
        bound = 5 * standard_error(squares) + 1e-5
        assert np.all(np.abs(np.mean(squares, axis=0) - 1) <= bound)


@each_estimator
def test_gradient_of_a_linear_fitness_is_unbiased(name):
    for k, slope in SIGNS.items():
        grads = facts(name).grads["none"][k]
        assert np.all(np.abs(grads.mean(axis=0) + slope) < 5 * standard_error(grads)), k


@each_estimator
@pytest.mark.parametrize("shaped", [n for n in SHAPINGS if n != "none"])
def test_shaping_keeps_the_direction_of_the_gradient(name, shaped):
    """Where its entries differ by nothing but their signs.

    Then symmetry allows a leaf's gradient no other direction, whatever is done to
    fitness; elsewhere, shaping and factors that are not gaussian may turn it.
    """
    for k, slope in SIGNS.items():
        grads = -facts(name).grads[shaped][k].reshape(REPEATS, -1)
        unit = np.ravel(slope) / np.size(slope) ** 0.5
        along = grads @ unit
        assert along.mean() > 5 * standard_error(along), k
        across = grads - np.outer(along, unit)
        bound = 5 * standard_error(across) + 1e-6
        assert np.all(np.abs(across.mean(axis=0)) <= bound), k


@pytest.mark.parametrize("name", ["rank 1, rademacher", "full rank, gaussian"])
def test_error_halves_when_the_population_quadruples(name):
    few, many = squared_errors(name, 16), squared_errors(name, 64)
    error = np.hypot(standard_error(few), 4 * standard_error(many))
    assert abs(few.mean() - 4 * many.mean()) < 5 * error


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"population": 4, "rank": 1}, 2),
        ({"population": 4, "rank": 2}, 4),
        ({"population": 4, "rank": 2, "antithetic": False}, 6),
        ({"population": 64, "rank": 1}, 6),
    ],
    ids=["pairs x 1", "pairs x 2", "members x 2", "full"],
)
def test_rank_of_the_update_is_that_of_all_perturbations_together(settings, expected):
    """min(N r, rows, columns), where a pair counts once."""
    es = EvolutionStrategy(sigma=1.0, noise="gaussian", **settings)
    fitness = lambda w: jnp.sum(jnp.tanh(jnp.ones(8) @ w + jnp.sin(jnp.arange(6.0))))
    _, grads = quick.jit(es.value_and_grad(fitness=fitness))(
        jnp.zeros((8, 6)), jax.random.key(0)
    )
    assert np.linalg.matrix_rank(grads, rtol=1e-4) == expected
