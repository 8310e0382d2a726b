import pytest
import toy
from matplotlib.image import imread
from toyrun import config, train

from eggroll import plotting, run as runs
from eggroll.errors import UserError


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    output = tmp_path_factory.mktemp("runs")
    one, _ = train(config(output, "name=adam"))
    other, _ = train(config(output, "name=sgd", "optimizer=sgd"))
    return one, other


def inked(path) -> float:
    """The share of a picture that is not white."""
    return float((imread(path)[..., :3].min(axis=2) < 0.95).mean())


def test_a_curve_shows_something(pair):
    path = plotting.curve(pair[0], toy.Line())
    assert path == pair[0].path / "curve.png"
    assert inked(path) > 0.02


def test_a_comparison_shows_something_and_leaves_nothing_beside_it(pair, tmp_path):
    path = plotting.comparison(pair, [toy.Line()] * 2, tmp_path / "both.png")
    assert inked(path) > 0.02
    assert [one.name for one in tmp_path.iterdir()] == ["both.png"]


def test_runs_that_measure_different_things_are_not_compared(pair, tmp_path):
    text = pair[1].metrics.read_text().replace("validation/error", "validation/return")
    pair[1].metrics.write_text(text)
    with pytest.raises(UserError, match=r"measure different things \(error, return\)"):
        plotting.comparison(pair, [toy.Line()] * 2, tmp_path / "both.png")


def test_a_run_without_a_validation_has_no_curve(tmp_path):
    with pytest.raises(UserError, match="nothing to draw before a first validation"):
        plotting.curve(runs.create(config(tmp_path)), toy.Line())
