import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
import yaml
from toyrun import config

from eggroll import runs, training
from eggroll.cli.main import EXTRA, main
from eggroll.config import plain
from eggroll.runs import Checkpoints, digests


ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "line.yaml"
    settings = plain(config(tmp_path / "runs"))
    path.write_text(yaml.safe_dump(settings))
    return path


def command(*words: object) -> int:
    return main([str(word) for word in words])


def test_a_run_is_trained_evaluated_plotted_and_compared(path, tmp_path, capsys):
    assert command("train", path, "--seed", 3) == 0
    run = tmp_path / "runs" / "line"
    said = capsys.readouterr().out
    assert "step 0: error" in said
    assert f"curve: {run}/curve.png" in said
    assert re.search(r"step 12, \d+\.\d s \(\d+\.\d s in steps, once compiled\)", said)
    assert command("train", path, "--optimizer=sgd", "--generations", "4") == 0
    capsys.readouterr()

    assert command("eval", run) == 0
    assert f"{run} at step 12" in capsys.readouterr().out
    assert command("eval", run, "--step", "5") == 0
    assert f"{run} at step 5" in capsys.readouterr().out
    (run / "curve.png").unlink()
    assert command("plot", run) == 0
    assert (run / "curve.png").exists()
    output = tmp_path / "both.png"
    assert command("compare", run, f"{run}-2", "--output", output) == 0
    said = capsys.readouterr().out
    assert output.exists()
    assert "backprop" in said
    assert " 12 " in said


def test_a_run_is_resumed_with_more_to_do(path, tmp_path, capsys):
    assert command("train", path, "--generations", "6") == 0
    assert (
        command("train", "--resume", tmp_path / "runs" / "line", "--generations=8") == 0
    )
    assert "resuming at step 6" in capsys.readouterr().out


def test_a_missed_target_exits_with_1(path, capsys):
    assert command("train", path, "--target", "-1") == 1
    assert "the target of -1 is missed" in capsys.readouterr().out


@pytest.mark.parametrize("algorithm", ["eggroll", "openes", "backprop"])
def test_info_tells_what_would_run_and_leaves_nothing(
    path, tmp_path, capsys, algorithm
):
    assert command("info", path, "--algorithm", algorithm) == 0
    said = capsys.readouterr().out
    assert "Fits a linear map" in said
    assert "8 parameters in 2 arrays" in said
    assert ("at once" in said) == (algorithm != "backprop")
    assert re.search(r"a step takes about \d.* of each device: \d", said)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("troubles", [[], ["numbers in tags: 100% are paid in full"]])
def test_a_reward_is_checked_by_its_task(path, capsys, monkeypatch, troubles):
    import toy

    def check(task, config, say):
        say(f"{task.inputs} columns, population {config.strategy.population}")
        return troubles

    monkeypatch.setattr(toy.Line, "check_reward", check, raising=False)
    assert command("check-reward", path, "--population", 16) == len(troubles)
    said = capsys.readouterr().out
    assert "columns, population 16\n" in said
    assert ("not as it should be: numbers in tags" in said) == bool(troubles)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train",), "either a CONFIG, or --resume"),
        (("train", "nothing.yaml"), "there is no file 'nothing.yaml'"),
        (("train", "CONFIG", "--populaton", "8"), "did you mean 'population'?"),
        (("train", "CONFIG", "--population"), "--population needs a value"),
        (("train", "CONFIG", "--inputs", "0"), "task: inputs must be at least 1"),
        (("train", "CONFIG", "--output", "CONFIG"), "cannot be written"),
        (("train", "CONFIG", "--name", "a/b"), "expected a plain directory name"),
        (("train", "CONFIG", "--algorithm", "eggrol"), "did you mean 'eggroll'?"),
        (("train", "--resume", "nowhere"), "nowhere is no run"),
        (("check-reward", "CONFIG"), "the task Line has no reward"),
        (("eval", "nowhere"), "nowhere is no run"),
        (("plot", "nowhere"), "nowhere is no run"),
        (("compare", "nowhere"), "nowhere is no run"),
    ],
)
def test_a_mistake_is_told_in_one_line_and_leaves_nothing(
    path, tmp_path, capsys, words, message
):
    words = [str(path) if word == "CONFIG" else word for word in words]
    assert command(*words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("eggroll: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def without(package: str, *words: object) -> subprocess.CompletedProcess:
    """A command where a package is not installed."""
    program = (
        f"import sys; sys.modules[{package!r}] = None; import eggroll.cli.main; "
        f"sys.exit(eggroll.cli.main.main({[str(word) for word in words]}))"
    )
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize("package", EXTRA)
def test_a_missing_extra_is_told_in_one_line(path, package):
    found = without(package, "train", path)
    said = f"eggroll: {package} is not installed: pip install 'eggroll-jax[cli]'\n"
    assert (found.returncode, found.stderr) == (2, said)


def test_other_missing_packages_keep_their_traceback(path):
    found = without("optax", "train", path)
    assert found.returncode == 1
    assert "Traceback" in found.stderr
    assert "import of optax halted" in found.stderr


def test_help_needs_no_extra():
    found = without("yaml", "train", "--help")
    assert (found.returncode, found.stderr) == (0, "")


def test_a_fault_of_the_task_keeps_its_traceback(path, monkeypatch):
    import toy

    def faulty(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(toy.Line, "evaluate", faulty)
    with pytest.raises(ZeroDivisionError):
        command("train", path)


def start(directory: Path, *words: object) -> subprocess.Popen:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/support'}",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "eggroll", *map(str, words)],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_step(metrics: Path, step: int) -> None:
    for _ in range(600):
        if metrics.exists() and metrics.read_text().count("\n") > step:
            return
        time.sleep(0.1)
    raise TimeoutError(metrics)


INTERRUPTED = pytest.param(signal.SIGINT, marks=pytest.mark.slow)


@pytest.mark.parametrize("number", [signal.SIGKILL, INTERRUPTED])
def test_a_process_that_is_stopped_anywhere_resumes_to_the_same_parameters(
    path, tmp_path, number
):
    words = (path, "--generations", "3000", "--evaluate-every", "1000")
    process = start(tmp_path, "train", *words, "--checkpoint-every", "50")
    run = tmp_path / "runs" / "line"
    wait_for_step(run / "metrics.jsonl", 110)  # so that 50 is written
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    stopped = max(Checkpoints(run / "checkpoints").steps())
    assert 50 <= stopped < 3000
    if number == signal.SIGINT:
        assert process.returncode == 128 + signal.SIGINT
        assert (
            f"step {stopped} is saved; go on with: eggroll train --resume {run}" in said
        )
    end = stopped + 200
    assert command("train", "--resume", run, "--generations", end) == 0
    assert command("train", *words, "--generations", end, "--name", "whole") == 0
    assert parameters(run, end) == parameters(tmp_path / "runs" / "whole", end)


def parameters(path: Path, step: int) -> dict[str, str]:
    run = runs.load(path)
    like = training.initial_state(training.prepare(run.config))
    state = Checkpoints(run.checkpoints).restore(like, step).state
    return digests(jax.device_get(state.params))


def test_the_module_runs_as_a_program_and_its_bar_stays_off_a_pipe(path, tmp_path):
    said, _ = start(tmp_path, "train", path).communicate(timeout=60)
    assert "all generations are done" in said
    assert "it/s" not in said
    assert "\r" not in said
