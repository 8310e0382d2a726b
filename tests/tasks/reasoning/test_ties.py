"""How often binary rewards say nothing."""

import itertools
import math

import numpy as np
import pytest

from tasks.reasoning.ties import (
    prediction,
    silent_generation,
    silent_group,
    tied_share,
    told,
)


def enumerated(rates):
    """The chance of equal sums, over all outcomes of two independent members."""
    total = 0.0
    for one in itertools.product((0, 1), repeat=len(rates)):
        for other in itertools.product((0, 1), repeat=len(rates)):
            chance = 1.0
            for p, x, y in zip(rates, one, other, strict=True):
                chance *= (p if x else 1 - p) * (p if y else 1 - p)
            total += chance * (sum(one) == sum(other))
    return total


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_tied_pairs_are_those_of_all_outcomes(rate, batch):
    expected = enumerated([rate] * batch)
    np.testing.assert_allclose(tied_share(rate, batch), expected, rtol=1e-12)


def test_the_formula_is_the_one_that_is_written():
    rate, batch, rho = 0.3, 8, 0.4
    a = rate * (1 - rate) * (1 - rho)
    terms = [
        math.comb(batch, 2 * k) * math.comb(2 * k, k) * a ** (2 * k)
        * (1 - 2 * a) ** (batch - 2 * k)
        for k in range(batch // 2 + 1)
    ]  # fmt: skip
    np.testing.assert_allclose(tied_share(rate, batch, rho), sum(terms), rtol=1e-12)


def test_prompts_of_different_rates_are_drawn_from():
    rates = [0.0, 1.0, 0.5]
    pairs = [enumerated(drawn) for drawn in itertools.product(rates, repeat=2)]
    np.testing.assert_allclose(tied_share(rates, 2), np.mean(pairs), rtol=1e-12)


def test_simulated_members_tie_as_often_as_predicted():
    random, rate, batch, rho, count = np.random.default_rng(0), 0.2, 16, 0.5, 40_000
    first = random.random((count, batch)) < rate
    again = random.random((count, batch)) < rate
    same = random.random((count, batch)) < rho  # then both answer alike
    second = np.where(same, first, again)
    ties = np.mean(first.sum(axis=1) == second.sum(axis=1))
    expected = tied_share(rate, batch, rho)
    assert abs(ties - expected) < 5 * math.sqrt(expected * (1 - expected) / count)


def test_a_generation_is_silent_if_all_its_pairs_are():
    assert silent_generation(0.5, 3) == 0.125
    assert silent_group(0.5, 4) == 2 / 16
    np.testing.assert_allclose(silent_group([0.0, 0.1], 2), (1 + 0.82) / 2)


def test_extremes():
    assert tied_share(0.5, 4, correlation=1.0) == tied_share(0.0, 4) == 1
    found = prediction(0.0, 8, 16)
    assert (found["speaking"], found["silent"]) == (0, 1)


def test_what_is_told():
    said = told(solved=10, answers=100, batch=1, pairs=8)
    assert "base rate 10.0% +- 3.0% (10 of 100 solved)" in said
    assert "82.0% of pairs would be tied" in said
    assert "1.4 of 8 speak" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.5, 8), "rates must be shares"),
        (([], 8), "rates must be shares"),
        ((float("nan"), 8), "rates must be shares"),
        ((0.5, 0), "batch must be at least 1"),
        ((0.5, 8, -1), "correlation must be between"),
    ],
)
def test_impossible_figures_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tied_share(*arguments)
