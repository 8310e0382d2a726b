"""Those who watch may fail; the run goes on, or is saved before it ends."""

import io
import os
import signal
import subprocess
import sys

import pytest
import toy
from toyrun import config, figures, interrupt_at, resume, train

from eggroll import UserError
from eggroll.runs import Checkpoints, metrics
from eggroll.training import Stop
from eggroll.training.listener import Listener
from eggroll.training.signals import interruptible


@pytest.fixture
def heeded():
    """A hang-up is heeded, though the tests may run under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


needs_hangup = pytest.mark.skipif(
    not hasattr(signal, "SIGHUP"), reason="there are no hang-ups on Windows"
)


def test_a_run_outlives_whoever_is_told_of_it(tmp_path, caplog):
    said = []

    def report(text):
        said.append(text)
        raise BrokenPipeError(32, "Broken pipe")

    run, outcome = train(config(tmp_path), report)
    assert outcome.stop is Stop.GENERATIONS
    assert [row["step"] for row in metrics.read(run.metrics)] == list(range(13))
    assert len(said) == 1
    assert f"Broken pipe); the run goes on in {run.path}" in caplog.text


def test_a_run_outlives_a_sink_that_fails_and_says_so_once(tmp_path, monkeypatch):
    class Sink:
        def __init__(self, directory):
            pass

        def write(self, step, row):
            raise ConnectionError("no route")

    monkeypatch.setattr(metrics, "TensorBoard", Sink)
    said = []
    run, _ = train(config(tmp_path, "sinks=[tensorboard]"), said.append)
    assert len(figures(run)) == 13
    lost = [text for text in said if "no more figures" in text]
    assert lost == ["Sink gets no more figures: ConnectionError: no route"]


def test_the_bar_says_that_it_compiles_until_a_step_is_through(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    listener = Listener(lambda _: None, tmp_path)
    with listener.bar(3, 0):
        assert "compiling:   0%" in terminal.getvalue()
        listener.advance()
        before = len(terminal.getvalue())
        listener._on_bar(lambda bar: bar.refresh())
        assert "33%" in terminal.getvalue()[before:]
        assert "compiling" not in terminal.getvalue()[before:]


def test_a_run_that_cannot_write_its_figures_is_saved_and_names_the_file(
    tmp_path, monkeypatch
):
    class Full:
        def __init__(self, file):
            self.file, self.count = file, 0

        def __getattr__(self, name):
            return getattr(self.file, name)

        def flush(self):
            self.count += 1
            if self.count > 7:
                raise OSError(28, "No space left on device")

    make = metrics.JsonLines.__init__

    def small(self, path):
        make(self, path)
        self._file = Full(self._file)

    monkeypatch.setattr(metrics.JsonLines, "__init__", small)
    said = []
    full = r"metrics.jsonl cannot be written \(No space left on device\)"
    with pytest.raises(UserError, match=full):
        train(config(tmp_path), said.append)
    assert Checkpoints(tmp_path / "line" / "checkpoints").steps() == [0, 5, 7]
    assert said[-1] == f"step 7 is saved in {tmp_path / 'line'}"


def test_a_run_is_saved_before_an_error_of_its_task_ends_it(tmp_path, monkeypatch):
    def fail():
        raise RuntimeError("a bug")

    interrupt_at(monkeypatch, "Line", 7, fail)
    with pytest.raises(RuntimeError, match="a bug"):
        train(config(tmp_path))
    assert Checkpoints(tmp_path / "line" / "checkpoints").steps() == [0, 5, 7]


def test_a_step_that_an_error_ends_before_its_row_is_written_is_made_again(
    tmp_path, monkeypatch
):
    write, failed = metrics.Recorder.write, []

    def interrupted(self, step, row):
        if step == 7 and not failed:
            failed.append(step)
            raise RuntimeError("anything")
        write(self, step, row)

    monkeypatch.setattr(metrics.Recorder, "write", interrupted)
    with pytest.raises(RuntimeError, match="anything"):
        train(config(tmp_path))
    resume(tmp_path / "line")
    rows = metrics.read(tmp_path / "line" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [*range(13)]


def test_so_is_one_whose_validation_fails(tmp_path, monkeypatch):
    validate, failed = toy.Line.validate, []

    def broken(self, params, state, key):
        if failed == [0]:  # the first one, of step 0, is past
            failed.append(4)
            raise UserError("the held-out file is gone")
        failed.append(0)
        return validate(self, params, state, key)

    monkeypatch.setattr(toy.Line, "validate", broken)
    with pytest.raises(UserError, match="is gone"):
        train(config(tmp_path))
    resume(tmp_path / "line")
    rows = metrics.read(tmp_path / "line" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [*range(13)]


@needs_hangup
@pytest.mark.usefixtures("heeded")
def test_a_connection_that_drops_saves_the_run_however_often_it_says_so(
    tmp_path, monkeypatch
):
    def hang_up():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)

    interrupt_at(monkeypatch, "Line", 7, hang_up)
    run, outcome = train(config(tmp_path))
    assert (outcome.stop, outcome.signal) == (Stop.INTERRUPT, signal.SIGHUP)
    assert Checkpoints(run.checkpoints).steps() == [0, 5, 8]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


@needs_hangup
def test_a_run_that_is_to_outlive_its_connection_does(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible(lambda _: None) as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
        assert interrupt.signal is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_command_line_goes_on_when_nobody_reads_it():
    program = """
import sys
from eggroll.cli.saying import say
for _ in range(9):
    say("." * 100_000)
print("at the end", file=sys.stderr)
"""
    command = [sys.executable, "-c", program]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == "at the end\n"
    assert process.returncode == 0
