"""The table of ranks, sigmas and populations: what is told is what was measured."""

import itertools

import pytest

from benchmarks import ranks


def test_the_document_has_the_figures_that_are_saved():
    text = ranks.DOCUMENT.read_text("utf-8")
    assert ranks.documented(text, ranks.read()) == text


def test_gains_are_those_of_runs_that_are_equal_otherwise():
    """Whatever seeds and populations do, and though some runs are not there yet."""
    results = {}
    for case, seed in itertools.product(ranks.cases("digits"), range(ranks.SEEDS)):
        gain = {1: 0, 8: 5, None: 7}[case.rank] + 3 * (case.noise == "gaussian")
        score = 1000.0 * seed + case.population + gain
        results[ranks.key_of(case, seed)] = {"scores": [score - 1, score + 1]}
    del (
        results["digits 64 gaussian 8 0.03 1"],
        results["digits 256 rademacher 1 0.03 2"],
    )
    _, _, _, *rows = ranks.differences("digits", results)
    found = [row.split(" | ")[2:] for row in rows]
    expected = ["5.0 ± 0.0"] * 2 + ["7.0 ± 0.0"] * 2 + ["3.0 ± 0.0"] * 2
    assert found == [[value, value, f"{value} |"] for value in expected]


@pytest.mark.parametrize(("values", "words"), [([], "-"), ([2], "2.0")])
def test_what_is_not_known_is_not_told(values, words):
    assert ranks.in_words(values) == words
