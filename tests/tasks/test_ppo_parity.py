"""Our PPO beside rejax's: what is told of them is what was measured."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import ppo_parity


def test_the_table_of_the_documentation_is_that_of_the_saved_figures():
    docs = Path(__file__).parent.parent.parent / "docs/control.md"
    assert ppo_parity.table() in docs.read_text()


@pytest.mark.parametrize(("place", "reward"), [(0, 2.0), (1, 3.0)])
def test_means_and_errors_are_over_seeds(place, reward, tmp_path, monkeypatch):
    """Two seeds whose curves are 1 and 3 after the start, and end with 1 and 5."""
    curves = {who: [[9, 1, 1], [9, 1, 5]] for who in ppo_parity.PLAYERS}
    monkeypatch.setattr(ppo_parity, "RESULTS", tmp_path / "figures.json")
    ppo_parity.RESULTS.write_text(ppo_parity.written({"CartPole-v1": curves}))
    monkeypatch.setattr(ppo_parity, "FRAMES", {"CartPole-v1": 10})
    row = ppo_parity.table().splitlines()[2].split(" | ")
    error = np.std([1, [3, 5][place]], ddof=1) / 2**0.5
    assert row[3 + place].rstrip(" |") == f"{reward:.1f} ± {error:.1f}"
