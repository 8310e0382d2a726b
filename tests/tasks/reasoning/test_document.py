"""What docs/rewards.md shows runs as it stands there, and what it says is so."""

import re
from pathlib import Path

import numpy as np

from tasks.reasoning import borrowed, rewards
from tasks.reasoning.ties import tied_share


TEXT = (Path(__file__).parents[3] / "docs" / "rewards.md").read_text(encoding="utf-8")


def test_the_example_of_the_document_runs():
    (code,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
    found: dict = {}
    exec(compile(code, "docs/rewards.md", "exec"), found)
    np.testing.assert_array_equal(found["scored"].scores, [1] * 4 + [0] * 4)
    assert found["scored"].failed == {}


def test_all_rewards_and_all_that_is_refused_are_named():
    rows = {line.split("`")[1] for line in TEXT.splitlines() if line.startswith("| `")}
    assert {*rewards.OWN} <= rows
    assert all(f"`{name}`" in TEXT for name in borrowed.EVALUATING)


def test_its_figures_of_ties_are_those_of_the_formula():
    assert round(tied_share(0.12, 8), 2) == 0.32
    assert round(tied_share(0.12, 1), 2) == 0.79
