"""Steps made again from what their members' fitness was."""

import shutil

import pytest
from toyrun import config, figures, interrupt_at, resume, train

from eggroll import runs, training
from eggroll.cli.main import main
from eggroll.runs import Checkpoints, digests, metrics


class Killed(BaseException):
    pass


def kill():
    raise Killed


ADAPTING = "strategy.sigma_adaptation=one_fifth_success"
CASES = {
    "full rank, noise kept for two steps": (
        "Line",
        "algorithm=openes",
        "noise_reuse=2",
        "devices=2",
    ),
    "scored on the host": ("ScoredOutside", "algorithm=eggroll"),
    "what is shared, keys among it": ("Sharing", "algorithm=eggroll", ADAPTING),
}


QUICK = "what is shared, keys among it"


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[] if x == QUICK else [pytest.mark.slow]) for x in CASES],
)
def test_a_killed_run_loses_no_step_and_evaluates_none_again(
    name, tmp_path, monkeypatch
):
    task, *settings = CASES[name]
    settings = (*settings, "checkpoint_every=100", "diagnose_every=3")
    whole, outcome = train(config(tmp_path / "whole", *settings, task=task))
    interrupt_at(monkeypatch, task, 7, kill)
    with pytest.raises(Killed):
        train(config(tmp_path, *settings, task=task))
    run, said = runs.load(tmp_path / "line"), []
    assert Checkpoints(run.checkpoints).steps() == [0]
    resumed = resume(run.path, said.append)
    assert "resuming at step 7, the last 7 of them from the replay log" in said
    assert digests(resumed.state) == digests(outcome.state)
    assert figures(run) == figures(whole)


@pytest.fixture(scope="module")
def sittings(tmp_path_factory):
    """A run of two sittings, of which the second learns slower, and all its states."""
    path, settings = tmp_path_factory.mktemp("sittings"), ("algorithm=eggroll",)
    run, _ = train(config(path, *settings, "generations=6", "keep_checkpoints=1"))
    runs.change(run, [("generations", "12"), ("learning_rate", "0.01")])
    resume(run.path)
    seen, save = {}, Checkpoints.save
    every = runs.create(config(path, *settings, "generations=6", "name=every"))
    with pytest.MonkeyPatch.context() as patch:

        def saved(self, step, state, facts, **options):
            seen[step] = digests(state)
            return save(self, step, state, facts, **options)

        patch.setattr(Checkpoints, "save", saved)
        runs.change(every, [("checkpoint_every", "1")])
        resume(every.path)
        more = [("generations", "12"), ("learning_rate", "0.01")]
        runs.change(runs.load(every.path), more)
        resume(every.path)
    return runs.load(run.path), seen


def state_of(path, step):
    run = runs.load(path)
    like = training.initial_state(training.prepare(run.config))
    return Checkpoints(run.checkpoints).restore(like, step)


@pytest.mark.parametrize("step", [3, 6, 9])
def test_any_step_is_made_again_to_the_bit(sittings, tmp_path, step, capsys):
    run, seen = sittings
    before = sorted(run.path.rglob("*"))
    assert Checkpoints(run.checkpoints).steps() == [12]
    path = tmp_path / "made"
    words = ["rewind", str(run.path), "--step", str(step), "--output", str(path)]
    assert main(words) == 0
    assert sorted(run.path.rglob("*")) == before
    made = state_of(path, step)
    assert digests(made.state) == seen[step]
    rate = made.facts["config"]["optimizer"]["learning_rate"]
    assert rate == (0.05 if step <= 6 else 0.01)
    assert [row["step"] for row in metrics.read(path / "metrics.jsonl")] == list(
        range(step + 1)
    )
    assert "go on with: eggroll train --resume" in capsys.readouterr().out
    assert main(words) == 2, "nothing is written over"


def test_a_step_without_a_checkpoint_is_looked_at_all_the_same(sittings, capsys):
    run, _ = sittings
    assert main(["eval", str(run.path), "--step", "8"]) == 0
    assert "at step 8" in capsys.readouterr().out
    assert main(["eval", str(run.path), "--step", "13"]) == 2
    assert "either, only of 12" in capsys.readouterr().err


def test_a_rewound_run_goes_on_as_the_other_did(sittings, tmp_path):
    run, seen = sittings
    path = tmp_path / "made"
    assert main(["rewind", str(run.path), "--step", "9", "--output", str(path)]) == 0
    assert digests(resume(path).state) == seen[12]
    rows = [row for row in figures(runs.load(path)) if row["step"] > 9]
    assert rows == [row for row in figures(run) if row["step"] > 9]


def test_a_log_alone_makes_the_run_again_from_its_start(sittings, tmp_path, capsys):
    run, seen = sittings
    path, log = tmp_path / "made", shutil.copytree(run.replay, tmp_path / "log")
    words = ["replay", str(log), "--trust", "--output", str(path)]
    assert main(words) == 0
    assert digests(state_of(path, 12).state) == seen[12]
    assert main(["eval", str(path)]) == 0
    words[-1] = str(tmp_path / "other")
    assert main([*words, "--seed", "1"]) == 2
    assert "the state of step 0 is not what it was (.key differs)" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "other").exists()
    assert main(["replay", str(log), "--output", str(tmp_path / "b")]) == 2
    assert "add --trust" in capsys.readouterr().err


def test_nothing_is_evaluated(sittings):
    run, _ = sittings
    experiment = training.prepare(run.config)
    state, parts = training.initial_state(experiment), experiment.algorithm.parts
    assert parts is not None
    data = experiment.task.batch((), 0, state.key)
    cost = lambda program, *given: (
        program.lower(*given).compile().cost_analysis()["flops"]
    )
    assert cost(parts.blank, state) < cost(parts.evaluate, state, data) / 20


def copied(sittings, tmp_path):
    run, _ = sittings
    path = tmp_path / "copied"
    shutil.copytree(run.path, path)
    return runs.load(path)


def test_a_damaged_record_is_named_with_the_last_good_step(sittings, tmp_path, capsys):
    run = copied(sittings, tmp_path)
    (segment,) = [one for one in run.replay.glob("*.log") if int(one.stem) == 0]
    content = bytearray(segment.read_bytes())
    content[-3 * (len(content) - content.index(b"\n") - 1) // 5 + 9] ^= 1  # of step 3
    segment.write_bytes(content)
    assert main(["rewind", str(run.path), "--step", "4"]) == 2
    said = capsys.readouterr().err
    assert "the record of step 3 is damaged: the last good step is 2" in said
    assert "either, only of 12" in said
    assert main(["rewind", str(run.path), "--step", "2"]) == 0


def test_a_step_that_was_never_made_is_refused(sittings, tmp_path, capsys):
    run, _ = sittings
    words = ["rewind", str(run.path), "--step", "13", "--output", str(tmp_path / "a")]
    assert main(words) == 2
    assert "no record of step 13: the last step that can be made again is 12" in (
        capsys.readouterr().err
    )


def test_a_torn_tail_is_dropped_and_told(tmp_path, monkeypatch):
    settings = ("algorithm=eggroll", "checkpoint_every=100", "generations=5")
    _, outcome = train(config(tmp_path / "whole", *settings))
    interrupt_at(monkeypatch, "Line", 4, kill)
    with pytest.raises(Killed):
        train(config(tmp_path, *settings))
    run, said = runs.load(tmp_path / "line"), []
    (segment,) = run.replay.glob("*.log")
    segment.write_bytes(segment.read_bytes()[:-5])
    resumed = resume(run.path, said.append)
    assert any("bytes are no whole record: dropped" in text for text in said)
    assert any("resuming at step 3, the last 3" in text for text in said)
    assert digests(resumed.state) == digests(outcome.state)


@pytest.mark.slow
def test_where_members_keep_something_steps_are_evaluated_again(
    tmp_path, monkeypatch, capsys
):
    settings = config(tmp_path, "algorithm=eggroll", task="Remembering")
    interrupt_at(monkeypatch, "Remembering", 7, kill)
    with pytest.raises(Killed):
        train(settings)
    path, said = tmp_path / "line", []
    assert main(["rewind", str(path), "--step", "7"]) == 0
    assert "steps that were evaluated again" in capsys.readouterr().out
    rewound = resume(tmp_path / "line-step-7")
    resumed = resume(path, said.append)
    assert any("the steps from 6 to 7 are made again: what members" in x for x in said)
    assert digests(resumed.state) == digests(rewound.state)


def test_what_does_not_learn_from_fitness_has_no_log(tmp_path, capsys):
    run, _ = train(config(tmp_path, "generations=7"))
    assert not run.replay.exists()
    assert main(["rewind", str(run.path), "--step", "3"]) == 2
    said = capsys.readouterr().err
    assert "'backprop' has no replay log" in said
    assert "no checkpoint of step 3 either, only of 0, 5, 7" in said
    assert main(["rewind", str(run.path), "--step", "5"]) == 0


def test_the_log_can_be_turned_off_or_kept_short(tmp_path):
    short = ("algorithm=eggroll", "keep_checkpoints=1", "keep_best=false")
    run, _ = train(config(tmp_path, *short, "replay_log=recent", "checkpoint_every=4"))
    assert sorted(one.name for one in run.replay.iterdir()) == ["states.jsonl"]
    run, _ = train(config(tmp_path, *short, "replay_log=none", "name=off"))
    assert not run.replay.exists()
