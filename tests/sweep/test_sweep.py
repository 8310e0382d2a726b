import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from toyrun import config, interrupt_at

from eggroll import UserError, runs
from eggroll.cli.main import main
from eggroll.config import flat, load, load_sweep, plain, search_space
from eggroll.runs import metrics
from eggroll.sweep import Record, Result, Sweep, Trial, sweep
from eggroll.sweep.record import table


SPACE = {
    "learning_rate": {"low": 0.001, "high": 0.1, "kind": "log"},
    "task.batch_size": [2, 4, 8],
}


@pytest.fixture
def path(tmp_path) -> Path:
    return write(tmp_path, SPACE)


def write(folder: Path, space, *overrides: str, task: str = "Line") -> Path:
    path = folder / "line.yaml"
    tree = plain(config(folder / "runs", *overrides, task=task))
    path.write_text(yaml.safe_dump({**tree, "sweep": space}))
    return path


def search(path: Path, *overrides: tuple[str, str], trials=2, seeds=2, said=None):
    report = (lambda _: None) if said is None else said.append
    return sweep(path, overrides, trials=trials, seeds=seeds, report=report)


def results(found: Sweep) -> dict:
    """All that was measured, without the times."""
    return {
        trial.number: (
            trial.settings,
            {seed: one.value for seed, one in trial.results.items()},
        )
        for trial in found.record.trials.values()
    }


def kill():
    raise KeyboardInterrupt


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_a_trial_is_the_same_however_many_there_are(path):
    _, found = load_sweep(path)
    few, many = ([search_space.draw(found, 3, i) for i in range(n)] for n in (2, 9))
    assert few == many[:2]
    assert len({json.dumps(one) for one in many}) > 2
    assert many != [search_space.draw(found, 4, i) for i in range(9)]


def test_a_range_is_searched_evenly_on_its_scale_and_within_its_bounds():
    ranges = {
        "log": search_space.parse({"low": 1e-4, "high": 1, "kind": "log"}, float, ""),
        "linear": search_space.parse({"low": -1, "high": 3}, float, ""),
        "whole": search_space.parse({"low": 1, "high": 4}, int | None, ""),
    }
    drawn = [search_space.draw(ranges, 0, trial) for trial in range(2000)]
    log, linear, whole = (np.array([one[name] for one in drawn]) for name in ranges)
    for values, low, high in ((np.log10(log), -4, 0), (linear, -1, 3)):
        assert low <= values.min() < values.max() <= high
        deviation = (high - low) / 12**0.5
        assert abs(values.mean() - (low + high) / 2) < 5 * deviation / 2000**0.5
    counts = np.unique(whole, return_counts=True)
    assert list(counts[0]) == [1, 2, 3, 4]
    assert abs(counts[1] - 500).max() < 5 * (2000 * 0.25 * 0.75) ** 0.5


def test_a_sweep_that_another_process_makes_is_left_alone(path, tmp_path):
    made = tmp_path / "runs" / "line-sweep"
    made.mkdir(parents=True)
    with runs.sitting(made), pytest.raises(UserError, match="in use by process"):
        search(path)
    assert not (made / "sweep.json").exists()


@pytest.mark.slow
def test_each_trial_and_seed_is_an_ordinary_run_with_the_overrides(path, tmp_path):
    found = search(path, ("generations", "5"), ("seed", "3"))
    assert found.path == tmp_path / "runs" / "line-sweep"
    for number, trial in found.record.trials.items():
        assert sorted(trial.results) == [3, 4]
        for seed, result in trial.results.items():
            run = runs.load(found.path / f"trial-{number:03}-seed-{seed}")
            made = flat(run.config)
            assert made.items() >= {"budget.generations": 5, "seed": seed}.items()
            assert made.items() >= trial.settings.items()
            assert metrics.read(run.metrics)[-1]["validation/error"] == result.value


@pytest.mark.slow
@pytest.mark.parametrize("stop", [kill, interrupt])
def test_a_stopped_sweep_goes_on_as_if_it_had_never_stopped(
    path, tmp_path, monkeypatch, stop
):
    whole = search(path, ("output", str(tmp_path / "whole")), seeds=1)
    interrupt_at(monkeypatch, "Line", 7, stop)
    if stop is kill:
        with pytest.raises(KeyboardInterrupt):
            search(path, seeds=1)
    else:
        assert search(path, seeds=1).signal == signal.SIGINT
    said = []
    resumed = search(path, seeds=1, said=said)
    step = 5 if stop is kill else 8
    assert said[0] == f"trial-000-seed-0: resuming at step {step}"
    assert results(resumed) == results(whole)
    assert resumed.signal is None


@pytest.mark.slow
def test_what_is_finished_is_not_run_again_and_more_may_be_asked_for(path, monkeypatch):
    first = search(path, trials=1)
    made = []
    create = runs.create
    monkeypatch.setattr(
        runs, "create", lambda config: made.append(config.name) or create(config)
    )
    assert results(search(path, trials=1)) == results(first)
    assert made == []
    more = search(path, trials=2)
    assert made == ["trial-001-seed-0", "trial-001-seed-1"]
    assert results(more)[0] == results(first)[0]


def test_a_run_that_ended_just_before_the_sweep_was_killed_counts(path):
    first = search(path, trials=1)
    (first.path / "sweep.json").unlink()
    said = []
    assert results(search(path, trials=1, said=said)) == results(first)
    assert not any("resuming" in text for text in said)


@pytest.mark.slow
def test_a_trial_that_fails_is_recorded_and_the_others_go_on(tmp_path):
    choices = {"breaks_at": [2, 100], "inputs": [0, 3]}
    path = write(tmp_path, choices, "algorithm=eggroll", task="Broken")
    found, said = search(path, trials=6, seeds=1), []
    for trial in found.record.trials.values():
        sound = trial.settings == {"task.breaks_at": 100, "task.inputs": 3}
        assert bool(trial.results) == sound == (trial.failure is None)
        if trial.settings["task.inputs"] == 0:
            assert "inputs must be at least 1" in str(trial.failure)
        elif not sound:
            assert "fitness of all 8 members" in str(trial.failure)
    outcomes = [bool(one.failure) for one in found.record.trials.values()]
    assert set(outcomes) == {True, False}
    text = (found.path / "table.md").read_text()
    assert text.count("| failed ") == sum(outcomes)
    assert "inputs must be at least 1" in text
    again = search(path, trials=6, seeds=1, said=said)
    assert results(again) == results(found)
    assert not any("resuming" in one for one in said)


def test_a_full_disk_stops_the_sweep(path, monkeypatch):
    def full(_):
        raise UserError("runs cannot be written (disk full)") from OSError()

    monkeypatch.setattr(runs, "create", full)
    with pytest.raises(UserError, match="disk full"):
        search(path)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"lerning_rate": [0.1]}, "did you mean 'learning_rate'"),
        ({"task.batchsize": [2]}, "did you mean 'task.batch_size'"),
        ({"batch_size": [2, "many"]}, r"sweep.batch_size\[1\]: expected int"),
        ({"batch_size": {"low": 1, "high": 1.5}}, "batch_size.high: expected int"),
        ({"sigma": {"low": 0, "high": 1, "kind": "log"}}, "needs `low` above 0"),
        ({"sigma": {"low": 2, "high": 1}}, "to a greater `high`"),
        ({"sigma": {"low": 1, "hihg": 2}}, "did you mean 'high'"),
        ({"sigma": {"low": 1, "high": 2, "kind": "logg"}}, "'linear' or 'log'"),
        ({"sigma": 0.1}, "sweep.sigma: expected a list of choices or"),
        ({"sigma": []}, "sweep.sigma: expected a list of choices or"),
        ({"optimizer": ["adm"]}, "no optimiser in optax 'adm': did you mean 'adam'"),
        ({"sigma": [1], "strategy.sigma": [1]}, "is given twice"),
        ({"seed": [1, 2]}, "'seed' cannot be searched"),
        ([1], "expected settings with choices"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused_by_every_command(
    tmp_path, section, message
):
    path = write(tmp_path, section)
    for read in (search, load):
        with pytest.raises(UserError, match=message):
            read(path)
    assert not (tmp_path / "runs").exists()


def test_what_the_command_line_gives_is_not_searched(path):
    found = search(path, ("learning_rate", "0.5"), trials=1, seeds=1)
    (trial,) = found.record.trials.values()
    assert list(trial.settings) == ["task.batch_size"]
    with pytest.raises(UserError, match="there is nothing to search"):
        search(path, ("learning_rate", "0.5"), ("batch-size", "8"))


@pytest.mark.slow
def test_another_space_or_setting_does_not_mix_into_a_sweep(path, tmp_path):
    search(path, trials=1, seeds=1)
    with pytest.raises(UserError, match=r"budget.generations was 12 and is 5 now"):
        search(path, ("generations", "5"))
    write(tmp_path, {**SPACE, "task.batch_size": [2, 4]})
    with pytest.raises(
        UserError, match=r"sweep.task.batch_size was \[2, 4, 8\] and is \[2, 4\] now"
    ):
        search(path)
    assert search(path, ("name", "other")).path.name == "other-sweep"


@pytest.mark.slow
def test_a_sweep_may_be_moved(path, tmp_path):
    first = search(path, seeds=1)
    shutil.move(tmp_path / "runs", tmp_path / "moved")
    moved = search(path, ("output", str(tmp_path / "moved")), seeds=1)
    assert results(moved) == results(first)


@pytest.mark.parametrize("maximise", [True, False])
def test_the_table_has_the_best_first_and_the_failed_last(maximise):
    made = {
        number: Trial(
            number,
            {"task.size": number, "strategy.sigma": 0.1},
            {seed: Result("error", value + seed, 1.0) for seed in (0, 1)},
        )
        for number, value in enumerate([2.0, 3.0, 1.0])
    }
    made[3] = Trial(3, made[0].settings, failure="no memory")
    text = table(Record(maximise, {}, made))
    order = [line.split()[1] for line in text.splitlines() if line[2:3].isdigit()]
    assert order == (["1", "0", "2", "3"] if maximise else ["2", "0", "1", "3"])
    assert "| error ± s.e.m. |" in text
    assert "| 3.5 ± 0.5 " in text
    assert "| size | sigma |" in text
    assert "- trial 3: no memory" in text


def test_the_command_shows_a_table_and_draws_a_picture(path, tmp_path, capsys):
    words = ["sweep", str(path), "--trials", "2", "--seeds=1", "--generations", "4"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "| trial | error ± s.e.m." in said
    directory = tmp_path / "runs" / "line-sweep"
    assert (directory / "table.md").read_text() in said
    assert (directory / "sweep.png").exists()  # test_plot.py looks at what is on it


def test_an_interrupted_command_says_so_in_its_status(path, monkeypatch, capsys):
    interrupt_at(monkeypatch, "Line", 7, interrupt)
    assert main(["sweep", str(path)]) == 128 + signal.SIGINT
    said = capsys.readouterr().out
    assert "trial-000-seed-0: stopping after this step and saving" in said
    assert "the same command goes on" in said
