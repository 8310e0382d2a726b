"""The comparison of EGGROLL, OpenES and PPO: equal chances, and told as measured."""

import pytest

from benchmarks import control, control_report, control_runs, control_tuning


ALGORITHMS = control_runs.ALGORITHMS


@pytest.mark.parametrize("path", control_report.DOCUMENTS, ids=lambda path: path.name)
def test_the_documents_have_the_figures_that_are_saved(path):
    text = path.read_text("utf-8")
    assert control_report.documented(text, control.FRAMES) == text
    assert control_report.TABLE.search(text)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", control_report.compared(control.FRAMES))
def test_each_has_as_many_trials_and_seeds_as_the_others(name, algorithm):
    found = control_runs.Comparison(name, algorithm)
    assert [trial["settings"] for trial in found.trials] == [
        control_tuning.settings_of(algorithm, trial)
        for trial in range(control_tuning.TRIALS)
    ]
    assert len(found.runs) == control.SEEDS
    frames = control.FRAMES[name]
    assert all(run["frames"] >= frames for run in found.runs)
    assert all(trial["frames"] >= frames / 2 for trial in found.trials)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", control.FRAMES)
def test_whatever_is_drawn_can_be_run(name, algorithm):
    for trial in range(control_tuning.TRIALS):
        changes = control_tuning.as_changes(
            control_tuning.settings_of(algorithm, trial)
        )
        control_runs.config_of(name, algorithm, *changes)


def test_the_best_trial_is_that_of_the_highest_end():
    trial = lambda name, *returns: {
        "settings": {"name": name},
        "curve": [{"return": value} for value in returns],
    }
    trials = [
        trial("flat", 5, 5, 5, 5),
        trial("falls", 9, 9, 1, 1),
        trial("failed"),
        trial("rises", 0, 6, 6, 6),
    ]
    assert control_tuning.best(trials) == {"name": "rises"}


def test_trials_that_are_there_are_not_made_again():
    trials, made, kept = [{"settings": {}, "curve": []}], [], []

    def train(seed, changes):
        made.append(changes)
        return {"curve": []}

    control_tuning.search("openes", trials, train, lambda: kept.append(len(trials)))
    assert kept == list(range(2, control_tuning.TRIALS + 1))
    assert made == [
        control_tuning.as_changes(control_tuning.settings_of("openes", trial))
        for trial in range(1, control_tuning.TRIALS)
    ]


def test_curves_are_averaged_over_the_same_frames():
    curve = lambda *points: {
        "curve": [{"frames": at, "return": value} for at, value in points]
    }
    found = [curve((0, 0.0), (100, 10.0)), curve((0, 0.0), (50, 10.0), (100, 20.0))]
    places, mean, error = control_report.along(100, found)
    assert (places[0], places[-1]) == (0, 100)
    assert mean == pytest.approx(1.5 * places / 10)
    assert error == pytest.approx(0.5 * places / 10)
