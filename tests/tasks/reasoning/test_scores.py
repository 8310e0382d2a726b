"""From rewards to fitness."""

import itertools

import numpy as np
import pytest

from tasks.reasoning.scores import (
    aggregated,
    best_of,
    pass_at_k,
    prompt_wise,
    tied_pairs,
)


REWARDS = np.array([0.3, 1.0, 0.0, 0.7, 0.7])


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_best_of_is_the_mean_over_all_choices_of_k(k):
    slow = np.mean([max(chosen) for chosen in itertools.combinations(REWARDS, k)])
    np.testing.assert_allclose(best_of(REWARDS, k), slow, rtol=1e-12)


@pytest.mark.parametrize(("samples", "k"), [(1, 1), (5, 1), (5, 2), (5, 5), (64, 8)])
def test_pass_at_k_is_the_best_of_k_rewards_of_0_and_1(samples, k):
    solved = np.arange(samples + 1)
    rewards = np.arange(samples) < solved[:, None]
    found = pass_at_k(solved, samples, k)
    np.testing.assert_allclose(found, best_of(rewards, k), atol=1e-12)
    assert (found[0], found[-1]) == (0, 1)


def test_fewer_samples_than_k_are_refused_where_the_formula_would_say_1():
    for call in (lambda: pass_at_k(0, 3, 4), lambda: best_of(np.zeros(3), 4)):
        with pytest.raises(ValueError, match=r"from 1 to the 3 samples.*got 4"):
            call()
    with pytest.raises(ValueError, match="expected 0 to 3 solved samples, got 4"):
        pass_at_k(4, 3, 1)


def test_aggregators_by_name():
    rewards = np.stack([REWARDS, REWARDS[::-1] / 2])
    np.testing.assert_allclose(aggregated(rewards, "mean"), rewards.mean(axis=1))
    np.testing.assert_allclose(aggregated(rewards, "max"), [1.0, 0.5])
    np.testing.assert_allclose(aggregated(rewards, "pass@2"), [2 / 5, 0])
    np.testing.assert_allclose(aggregated(rewards, "pass@1", solved=0.7), [3 / 5, 0])
    for how in ("median", "pass@", "pass@x", "mean@2"):
        with pytest.raises(ValueError, match="must be mean, max or pass@K"):
            aggregated(rewards, how)


MATRIX = np.array([[1.0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 0.5]])


def test_prompts_are_centred_one_by_one_and_without_division_nothing_changes():
    means = MATRIX.mean(axis=1)
    np.testing.assert_allclose(prompt_wise(MATRIX), means - means.mean(), atol=1e-12)


def test_prompts_may_be_made_equally_heavy():
    centred = MATRIX - MATRIX.mean(axis=0)
    spread = np.where(MATRIX.std(axis=0) > 0, MATRIX.std(axis=0), 1)
    found = prompt_wise(MATRIX, "prompt")
    np.testing.assert_allclose(found, (centred / spread).mean(axis=1), atol=1e-12)
    found = prompt_wise(MATRIX, "all")
    expected = centred.mean(axis=1) / np.sqrt(np.mean(centred**2))
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("divide", ["nothing", "all", "prompt"])
def test_prompts_that_all_answer_alike_say_nothing(divide):
    np.testing.assert_array_equal(
        prompt_wise(np.full((7, 3), 0.1), divide), np.zeros(7)
    )


def test_an_unknown_division_is_refused():
    with pytest.raises(ValueError, match="divide must be nothing, all or prompt"):
        prompt_wise(MATRIX, "std")


def test_tied_pairs():
    assert tied_pairs(np.array([1.0, 1, 0, 1, 0, 0, 2, 3])) == 0.5
    assert tied_pairs(np.array([1.0, 1, np.nan, np.nan])) == 1.0
    assert tied_pairs(np.array([np.nan, 1])) == 0.0
