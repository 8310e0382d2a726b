import os
import shutil
import signal

import pytest
from toyrun import config, figures, interrupt_at, resume, train

from eggroll import UserError, runs
from eggroll.cli.main import main
from eggroll.runs import Checkpoints, metrics
from eggroll.runs.digest import digests
from eggroll.training import Stop


class Killed(BaseException):
    pass


def kill():
    raise Killed


@pytest.fixture
def finished(tmp_path):
    return train(config(tmp_path, "generations=1"))[0]


@pytest.mark.parametrize(
    ("task", "algorithm", "stop"),
    [
        ("Remembering", "eggroll", kill),
        ("Remembering", "eggroll", lambda: os.kill(os.getpid(), signal.SIGINT)),
        ("Line", "backprop", lambda: os.kill(os.getpid(), signal.SIGTERM)),
        ("ScoredOutside", "eggroll", kill),
    ],
    ids=["kill", "SIGINT", "SIGTERM", "kill, scored on the host"],
)
def test_a_resumed_run_equals_one_that_never_stopped_bit_for_bit(
    tmp_path, monkeypatch, task, algorithm, stop
):
    settings = (f"algorithm={algorithm}", "diagnose_every=3")
    whole, outcome = train(config(tmp_path / "whole", *settings, task=task))
    interrupt_at(monkeypatch, task, 7, stop)
    stopped = tmp_path / "stopped" / "line"
    if stop is kill:
        with pytest.raises(Killed):
            train(config(tmp_path / "stopped", *settings, task=task))
        assert Checkpoints(stopped / "checkpoints").steps() == [0, 5]
    else:
        _, first = train(config(tmp_path / "stopped", *settings, task=task))
        assert first.stop is Stop.INTERRUPT
        assert Checkpoints(stopped / "checkpoints").steps() == [0, 5, 8]
    resumed = resume(stopped)
    assert digests(resumed.state) == digests(outcome.state)
    assert figures(runs.load(stopped)) == figures(whole)
    assert "fitness/best_ever" in figures(whole)[-1]


def test_a_half_written_line_of_figures_is_made_again(tmp_path, monkeypatch):
    interrupt_at(monkeypatch, "Line", 7, kill)
    with pytest.raises(Killed):
        train(config(tmp_path))
    run = runs.load(tmp_path / "line")
    with run.metrics.open("a") as file:
        file.write('{"step": 8, "fitn')
    resume(run.path)
    assert [row["step"] for row in metrics.read(run.metrics)] == list(range(13))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, monkeypatch):
    _, outcome = train(config(tmp_path / "whole"))
    interrupt_at(monkeypatch, "Line", 11, kill)
    with pytest.raises(Killed):
        train(config(tmp_path))
    path, said = tmp_path / "line", []
    for file in (path / "checkpoints" / "10").rglob("d/*"):
        file.write_bytes(b"\0" * file.stat().st_size)
    resumed = resume(path, said.append)
    assert any("checkpoint 10 is damaged" in text for text in said)
    assert any("resuming at step 5" in text for text in said)
    assert digests(resumed.state) == digests(outcome.state)
    assert (path / "damaged" / "10").is_dir()


def test_a_full_disk_stops_the_run_and_leaves_what_was_saved(tmp_path, monkeypatch):
    save = Checkpoints.save

    def full(self, step, state, facts, **options):
        if step >= 10:
            raise UserError(f"checkpoint {step} cannot be written: disk full")
        return save(self, step, state, facts, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", full)
        with pytest.raises(UserError, match="cannot be written"):
            train(config(tmp_path))
    assert Checkpoints(tmp_path / "line" / "checkpoints").steps() == [0, 5]
    assert resume(tmp_path / "line").stop is Stop.GENERATIONS


def test_a_finished_run_is_not_resumed_without_more_to_do(tmp_path):
    run, _ = train(config(tmp_path))
    before = run.metrics.read_bytes()
    with pytest.raises(UserError, match="nothing is left to do, all generations are"):
        resume(run.path)
    assert run.metrics.read_bytes() == before


def test_more_generations_continue_as_if_they_had_been_asked_for_at_once(tmp_path):
    _, whole = train(config(tmp_path / "whole"))
    run, _ = train(config(tmp_path, "generations=6"))
    runs.change(run, [("generations", "12")])
    assert digests(resume(run.path).state) == digests(whole.state)


def test_what_would_make_it_another_run_cannot_change(tmp_path):
    run = runs.create(config(tmp_path))
    with pytest.raises(UserError, match=r"strategy.population cannot change when"):
        runs.change(run, [("population", "64")])


@pytest.mark.parametrize(
    "asked",
    ["--seconds=1e-9", pytest.param("--mesh.devices=999", marks=pytest.mark.slow)],
)
def test_settings_with_which_it_does_not_go_on_are_not_kept(finished, asked, capsys):
    before = (finished.path / "config.yaml").read_bytes()
    assert main(["train", "--resume", str(finished.path), asked]) != 0
    assert (finished.path / "config.yaml").read_bytes() == before


def test_settings_with_which_it_goes_on_are_kept(tmp_path):
    run, _ = train(config(tmp_path, "generations=3"))
    assert main(["train", "--resume", str(run.path), "--generations=5"]) == 0
    assert runs.load(run.path).config.budget.generations == 5


def test_damaged_figures_are_told_and_the_run_goes_on(tmp_path, capsys):
    run, _ = train(config(tmp_path, "generations=3"))
    lines = run.metrics.read_text().splitlines(keepends=True)
    run.metrics.write_text("".join([*lines[:2], "5\n", lines[1], lines[2]]))
    assert main(["plot", str(run.path)]) == 0
    assert "line 3 cannot be read" in capsys.readouterr().out
    runs.change(run, [("generations", "4")])
    said = []
    resume(run.path, said.append)
    assert [row["step"] for row in metrics.read(run.metrics)] == [0, 1, 2, 4]
    told = [text.partition(": ")[2] for text in said if "metrics.jsonl" in text]
    assert told == [
        "line 3 cannot be read and is passed over",
        "step 1 is there twice: the last row counts",
        "step 3 is not there: there is a hole",
    ]


def test_figures_are_on_the_disk_before_a_checkpoint_claims_their_step(
    tmp_path, monkeypatch
):
    order, save = [], Checkpoints.save

    def settle(self):
        order.append("figures")

    def saved(self, step, state, facts, **options):
        order.append(step)
        return save(self, step, state, facts, **options)

    monkeypatch.setattr(metrics.JsonLines, "settle", settle)
    monkeypatch.setattr(Checkpoints, "save", saved)
    train(config(tmp_path))
    assert order == ["figures", 0, "figures", 5, "figures", 10, "figures", 12]


def test_a_run_that_another_process_trains_is_left_alone(finished):
    before = finished.metrics.read_bytes()
    with runs.sitting(finished.path):
        with pytest.raises(UserError, match="in use by process"):
            runs.change(finished, [("generations", "2")])
        with pytest.raises(UserError, match="in use by process"):
            resume(finished.path)
    assert finished.metrics.read_bytes() == before
    assert runs.load(finished.path).config == finished.config


def edit(run, before: str, after: str) -> None:
    file = run.path / "config.yaml"
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("seed: 0", "seed: 1", "seed is 1, and was 0 when the run was saved"),
        ("inputs: 3", "inputs: 4", "task.inputs is 4, and was 3"),
        ("rules: {}", "rules: {b: frozen}", "strategy.rules.b is 'frozen', and was"),
        ("toy:Line", "toy:Broken", "task.class is 'toy:Broken', and was 'toy:Line'"),
    ],
)
def test_a_config_that_became_that_of_another_run_is_refused(
    finished, before, after, message
):
    edit(finished, before, after)
    with pytest.raises(UserError, match=rf"config.yaml: .*{message}"):
        resume(finished.path)


def test_what_may_change_between_sittings_is_told(finished):
    edit(finished, "sigma: 0.05", "sigma: 0.1")
    edit(finished, "generations: 1", "generations: 2")
    edit(finished, "name: line", "name: lines")
    said = []
    resume(finished.path, said.append)
    assert "strategy.sigma was 0.05 and is 0.1 from now on" in said
    assert "budget.generations was 1 and is 2 from now on" in said
    assert "name was 'line' and is 'lines' from now on" in said


def test_validating_by_an_edited_config_is_told(finished, capsys):
    edit(finished, "seed: 0", "seed: 1")
    assert main(["eval", str(finished.path)]) == 0
    said = capsys.readouterr().out
    assert "seed was 0 when the run was saved, and is 1 in its config.yaml" in said


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path):
    run = runs.create(config(tmp_path))
    run.metrics.write_text('{"step": 0, "validation/error": 3.0}\n')
    resume(run.path)
    assert [row["step"] for row in metrics.read(run.metrics)] == list(range(13))


def test_figures_whose_checkpoints_were_removed_are_not_written_over(tmp_path):
    run, _ = train(config(tmp_path))
    before = run.metrics.read_bytes()
    shutil.rmtree(run.checkpoints)
    with pytest.raises(UserError, match="has figures but no checkpoint"):
        resume(run.path)
    assert run.metrics.read_bytes() == before
