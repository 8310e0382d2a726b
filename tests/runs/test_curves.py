import json

import numpy as np
import pytest
import toy
from matplotlib.colors import to_hex
from toyrun import config, train

from eggroll import UserError
from eggroll.runs import create, curves


STEPS = [0, 2, 4, 5]
VALUES = [4.0, 1.5, 0.25, 0.125]
MEAN = [-3.0, -2.0, -1.0]
SPREAD = [0.5, 0.25, 2.0]
BEST = [-2.75, -1.5, -0.5]


class Lined(toy.Line):
    reference = {"perfect": 0.0, "chance": 2.5}  # noqa: RUF012


@pytest.fixture
def figures(monkeypatch):
    """The pictures that are saved, as they were drawn."""
    saved, save = [], curves.save

    def keep(figure, path):
        saved.append(figure)
        return save(figure, path)

    monkeypatch.setattr(curves, "save", keep)
    return saved


def run(output, name="adam", scale=1.0, headline="error", algorithm="backprop"):
    """A run that never ran: rows as the loop writes them, some without a validation."""
    made = create(config(output, f"name={name}", f"algorithm={algorithm}"))
    rows = {step: {"step": step} for step in (0, 1, 2, 4, 5)}
    for step, value in zip(STEPS, VALUES, strict=True):
        rows[step] |= {f"validation/{headline}": scale * value, "validation/bias": 7.0}
        rows[step] |= {"seconds": scale * step / 10, "samples": 8.0 * step}
    for step, mean, spread, best in zip((1, 2, 4), MEAN, SPREAD, BEST, strict=True):
        fitness = {"mean": mean, "spread": spread, "best": best}
        rows[step] |= {f"fitness/{name}": value for name, value in fitness.items()}
    made.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    return made


def columns(made, *names):
    """The figures of `metrics.jsonl`, in the rows that have them all."""
    rows = [json.loads(line) for line in made.metrics.read_text().splitlines()]
    rows = [row for row in rows if all(name in row for name in names)]
    return [[row[name] for row in rows] for name in names]


def points(line):
    return [list(map(float, data)) for data in line.get_data()]


def named(axes):
    return {line.get_label(): points(line) for line in axes.get_lines()}


def drawn(axes):
    """The curves of a panel, without its reference lines."""
    return [one for one in axes.get_lines() if len(one.get_xdata()) > 2]


def levels(axes):
    lines = (line for line in axes.get_lines() if len(line.get_xdata()) == 2)
    return [line.get_ydata()[0] for line in lines]


def test_a_curve_goes_through_the_validations_of_the_run(tmp_path, figures):
    path = curves.curve(run(tmp_path), toy.Line())
    assert path == tmp_path / "adam" / "curve.png"
    assert path.stat().st_size > 0
    above, _ = figures[0].axes
    assert [points(line) for line in drawn(above)] == [[STEPS, VALUES]]
    assert above.get_title(loc="left") == "adam: error"


def test_a_curve_tells_its_last_value(tmp_path, figures):
    curves.curve(run(tmp_path), toy.Line())
    (end,) = (one for one in figures[0].axes[0].texts if one.get_text() == "0.125")
    assert end.xy == (STEPS[-1], VALUES[-1])


def test_reference_lines_lie_at_their_values_and_are_named(tmp_path, figures):
    curves.curve(run(tmp_path), Lined())
    above, below = figures[0].axes
    assert levels(above) == [0.0, 2.5]
    places = {one.get_text(): one.xy[1] for one in above.texts}
    assert places.items() >= {"perfect 0": 0.0, "chance 2.5": 2.5}.items()
    assert levels(below) == []


def test_the_population_is_drawn_as_mean_best_and_a_band_of_one_spread(
    tmp_path, figures
):
    curves.curve(run(tmp_path), toy.Line())
    _, below = figures[0].axes
    assert named(below) == {"mean": [[1, 2, 4], MEAN], "best": [[1, 2, 4], BEST]}
    (band,) = below.collections
    (corners,) = (path.vertices for path in band.get_paths())
    mean, spread, best = map(np.array, (MEAN, SPREAD, BEST))
    assert band.get_label() == "± spread"
    for step, low, high in zip((1, 2, 4), mean - spread, mean + spread, strict=True):
        # no member is better than the best, however wide the spread
        top = min(high, best[[1, 2, 4].index(step)])
        heights = corners[corners[:, 0] == step][:, 1]
        assert (heights.min(), heights.max()) == (low, top)


def test_a_curve_shows_what_training_wrote(tmp_path, figures):
    made, _ = train(config(tmp_path, "generations=6"))
    curves.curve(made, toy.Line())
    above, below = figures[0].axes
    assert [points(line) for line in drawn(above)] == [
        columns(made, "step", "validation/error")
    ]
    assert named(below) == {
        name: columns(made, "step", f"fitness/{name}") for name in ("mean", "best")
    }
    assert len(columns(made, "step", "fitness/mean")[0]) == 6


@pytest.mark.parametrize(
    ("panel", "label", "name"),
    [
        (0, "time (s)", "seconds"),
        (1, "examples", "samples"),
        (2, "steps", "step"),
    ],
)
def test_a_comparison_draws_each_run_against_time_samples_and_steps(
    tmp_path, figures, panel, label, name
):
    runs = [run(tmp_path), run(tmp_path, "other", scale=3.0)]
    path = curves.comparison(runs, [toy.Line()] * 2, tmp_path / "both.png")
    assert path.stat().st_size > 0
    axes = figures[0].axes[panel]
    assert axes.get_xlabel() == label
    assert [points(line) for line in drawn(axes)] == [
        columns(one, name, "validation/error") for one in runs
    ]
    assert figures[0].axes[0].get_ylabel() == "error"


def test_a_comparison_names_its_runs_and_keeps_their_colours(tmp_path, figures):
    runs = [run(tmp_path), run(tmp_path, "other", algorithm="eggroll")]
    curves.comparison(runs, [toy.Line()] * 2, tmp_path / "both.png")
    (legend,) = figures[0].legends
    names = [one.get_text() for one in legend.get_texts()]
    assert names == ["adam (backprop)", "other (eggroll)"]
    colours = [
        [to_hex(line.get_color()) for line in drawn(panel)] for panel in figures[0].axes
    ]
    assert colours == [list(curves.COLOURS[:2])] * 3


def test_a_comparison_has_reference_lines_in_each_panel_named_once(tmp_path, figures):
    runs = [run(tmp_path), run(tmp_path, "other")]
    curves.comparison(runs, [Lined()] * 2, tmp_path / "both.png")
    assert [levels(panel) for panel in figures[0].axes] == [[0.0, 2.5]] * 3
    texts = [[one.get_text() for one in panel.texts] for panel in figures[0].axes]
    assert texts == [[], [], ["perfect 0", "chance 2.5"]]


def test_a_picture_is_alone_beside_its_runs(tmp_path):
    (tmp_path / "pictures").mkdir()
    path = tmp_path / "pictures" / "both.png"
    curves.comparison([run(tmp_path)], [toy.Line()], path)
    assert list(path.parent.iterdir()) == [path]


def test_runs_that_measure_different_things_are_not_compared(tmp_path):
    runs = [run(tmp_path), run(tmp_path, "other", headline="return")]
    with pytest.raises(UserError, match=r"measure different things \(error, return\)"):
        curves.comparison(runs, [toy.Line()] * 2, tmp_path / "both.png")


def test_a_run_without_a_validation_has_no_curve(tmp_path):
    with pytest.raises(UserError, match="nothing to draw before a first validation"):
        curves.curve(create(config(tmp_path)), toy.Line())
