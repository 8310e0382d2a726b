"""The picture of a sweep: where each trial is drawn, and how."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from eggroll.runs.curves import COLOURS
from eggroll.sweep import plot
from eggroll.sweep.record import Record, Result, Trial


RATE, SIZE = "optimizer.learning_rate", "task.batch_size"
SPACE = {
    f"sweep.{RATE}": {"low": 0.001, "high": 0.1, "kind": "log"},
    f"sweep.{SIZE}": [2, 4, 8],
}
# number: (rate, size, results of the seeds)
TRIALS = {
    0: (0.002, 4, [2.0, 3.0]),
    1: (0.05, 2, [0.5, 1.0]),
    2: (0.01, 4, [4.0]),
    3: (0.09, 8, []),
}
FAILED = 3


@pytest.fixture
def figure(tmp_path, monkeypatch):
    """Draws a sweep; returns the picture, as it was drawn."""

    def draw(maximise=False):
        saved, save = [], plot.save
        monkeypatch.setattr(plot, "save", lambda *a: saved.append(a[0]) or save(*a))
        trials = {
            number: Trial(
                number,
                {RATE: rate, SIZE: size},
                {seed: Result("error", one, 1.0) for seed, one in enumerate(values)},
                failure="no memory" if number == FAILED else None,
            )
            for number, (rate, size, values) in TRIALS.items()
        }
        path = tmp_path / "line-sweep" / "sweep.png"
        path.parent.mkdir(exist_ok=True)
        assert plot.picture(Record(maximise, SPACE, trials), path) == path
        assert path.stat().st_size > 0
        return saved[0]

    return draw


def markers(axes):
    """The trials with a result in a panel: (x, y, colour), in the order drawn."""
    made = [bar.lines[0] for bar in axes.containers]
    return [
        (float(one.get_xdata()[0]), float(one.get_ydata()[0]), to_hex(one.get_color()))
        for one in made
    ]


def crosses(axes):
    (line,) = (line for line in axes.get_lines() if line.get_marker() == "x")
    return list(line.get_xdata())


def test_each_trial_lies_at_its_setting_and_the_mean_of_its_seeds(figure):
    rates, _ = figure().axes
    assert rates.get_xlabel() == "learning_rate"
    assert rates.get_ylabel() == "error"
    assert rates.get_xscale() == "log"
    assert {(x, y) for x, y, _ in markers(rates)} == {
        (0.002, 2.5),
        (0.05, 0.75),
        (0.01, 4.0),
    }


def test_bars_are_the_standard_errors_of_trials_with_several_seeds(figure):
    rates, _ = figure().axes
    heights = {}
    for bar in rates.containers:
        x = float(bar.lines[0].get_xdata()[0])
        segments = bar.lines[2][0].get_segments() if bar.has_yerr else []
        heights[x] = [list(segment[:, 1]) for segment in segments]
    assert heights == {0.002: [[2.0, 3.0]], 0.05: [[0.5, 1.0]], 0.01: []}


@pytest.mark.parametrize(("maximise", "best"), [(False, 1), (True, 2)])
def test_the_best_trial_is_marked_on_top_and_named(figure, maximise, best):
    drawn = figure(maximise)
    for panel in drawn.axes:
        *others, marked = markers(panel)
        assert marked[1:] == (np.mean(TRIALS[best][2]), COLOURS[1])
        assert {colour for *_, colour in others} == {COLOURS[0]}
    said = {1: "line-sweep: best 0.75 ± 0.25 (trial 1)", 2: "best 4 (trial 2)"}
    assert drawn.get_suptitle().endswith(said[best])


def test_failed_trials_are_crosses_at_their_settings(figure):
    rates, _ = figure().axes
    assert crosses(rates) == [0.09]


def test_choices_are_named_and_their_trials_lie_side_by_side(figure):
    _, sizes = figure().axes
    assert sizes.get_xlabel() == "batch_size"
    assert [tick.get_text() for tick in sizes.get_xticklabels()] == ["2", "4", "8"]
    places = {y: x for x, y, _ in markers(sizes)}
    assert [round(places[y]) for y in (0.75, 2.5, 4.0)] == [0, 1, 1]
    assert places[2.5] < places[4.0]
    assert [round(x) for x in crosses(sizes)] == [2]


def test_an_axis_holds_the_whole_range_that_was_searched(figure):
    rates, sizes = figure().axes
    low, high = rates.get_xlim()
    assert 0.0005 < low < 0.001
    assert 0.1 < high < 0.2
    assert sizes.get_xlim() == (-0.5, 2.5)
