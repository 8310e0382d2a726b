"""The fault matrix: what is done to a run, and what becomes of it.

Whatever happens, nothing hangs and no step that a checkpoint or a row claims is lost:
either the run goes on and ends as one that nothing happened to, to the bit, or one
message of less than 500 characters says why not and what to do.
"""

import builtins
import contextlib
import dataclasses
import errno
import functools
import io
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toyrun import config, figures, interrupt_at, train

from eggroll import UserError, runs, training
from eggroll.cli.main import main
from eggroll.runs import Checkpoints, curves, metrics
from eggroll.runs.digest import digests


DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "faults.md"
DONE, END = 12, 14  # steps of the run, and of the one that goes on with it
SAME = "goes on, to the same bits"


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing that is done.

    Attributes:
        name: In words.
        do: To the directory of a run that has made `DONE` steps.
        refusal: A pattern of the message; empty, if the run goes on.
        said: A pattern of what is told of it all the same.
    """

    name: str
    do: Callable[[Path, pytest.MonkeyPatch], Any]
    refusal: str = ""
    said: str = ""


# --- what is done to files


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(bytes(data))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def gone(file: Path) -> None:
    shutil.rmtree(file) if file.is_dir() else file.unlink()


def folder(file: Path) -> None:
    gone(file)
    file.mkdir()


def text(words: str) -> Callable[[Path], Any]:
    return lambda file: file.write_text(words)


def replaced(before: str, after: str) -> Callable[[Path], Any]:
    def do(file):
        found = file.read_text()
        assert before in found
        file.write_text(found.replace(before, after, 1))

    return do


def appended(words: str) -> Callable[[Path], Any]:
    return lambda file: file.write_text(file.read_text() + words)


def without_line(number: int) -> Callable[[Path], Any]:
    def do(file):
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(lines[:number] + lines[number + 1 :]))

    return do


def newest(run: Path, pattern: str) -> Path:
    """The largest file that matches, of the newest checkpoint."""
    step = max(Checkpoints(run / "checkpoints").steps())
    found = (run / "checkpoints" / str(step)).glob(pattern)
    return max((one for one in found if one.is_file()), key=lambda x: x.stat().st_size)


def of(name: str, damage: Callable[[Path], Any], pattern: str, **more: str) -> Fault:
    """Damage to a file of the newest checkpoint."""
    return Fault(
        f"checkpoint: {name} {damage.__name__}",
        lambda run, _: damage(newest(run, pattern)),
        **more,
    )


def to(file: str, name: str, damage: Callable[[Path], Any], *more: str) -> Fault:
    """Damage to another file."""
    return Fault(f"{file}: {name}", lambda run, _: damage(run / file), *more)


# --- what is done to the world


def refuses(name: str, number: int):
    """Opening a file of that name for writing fails."""

    def do(run: Path, patch: pytest.MonkeyPatch) -> None:
        opening = io.open

        def opened(file, mode="r", *more, **options):
            if Path(str(file)).name == name and set(mode) & set("wax+"):
                raise OSError(number, os.strerror(number), str(file))
            return opening(file, mode, *more, **options)

        patch.setattr(io, "open", opened)
        patch.setattr(builtins, "open", opened)

    return do


def fails(owner: Any, name: str, error: BaseException):
    """A function raises."""

    def do(run: Path, patch: pytest.MonkeyPatch) -> None:
        def raising(*_, **__):
            raise error

        patch.setattr(owner, name, raising)

    return do


def full_checkpoints(run: Path, patch: pytest.MonkeyPatch) -> None:
    import orbax.checkpoint as ocp

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    fails(ocp.CheckpointManager, "save", full)(run, patch)


def held(run: Path, patch: pytest.MonkeyPatch) -> None:
    stack = contextlib.ExitStack()
    stack.enter_context(runs.sitting(run))
    patch.setattr(patch, "undo", lambda undo=patch.undo: (stack.close(), undo()))


def stopped(action: Callable[[], None]):
    """Something happens amid the step after the last one, and the run is resumed."""

    def do(run: Path, patch: pytest.MonkeyPatch) -> None:
        interrupt_at(patch, "Line", DONE, action)
        with contextlib.suppress(BaseException):
            resumed(run)

    return do


def raised(error: BaseException) -> Callable[[], None]:
    def action():
        raise error

    return action


def clock(run: Path, patch: pytest.MonkeyPatch) -> None:
    now = time.time
    patch.setattr(time, "time", lambda: now() - 400 * 86400)


def every_checkpoint(damage: Callable[[Path], Any]):
    def do(run: Path, _: pytest.MonkeyPatch) -> None:
        for pattern in ("checkpoints/*/note/metadata", "replay/*"):
            for file in run.glob(pattern):
                damage(file)

    return do


FILES = {
    "its metadata": "_CHECKPOINT_METADATA",
    "the note": "note/metadata",
    "the tree": "state/_METADATA",
    "the manifest": "state/manifest.ocdbt",
    "the index": "state/d/*",
    "the data": "state/ocdbt.process_0/d/*",
    "the forms": "state/array_metadatas/*",
}
ROFS, FULL = errno.EROFS, errno.ENOSPC
FAULTS = [
    *(of(name, how, FILES[name]) for name in FILES for how in (flip, cut, gone)),
    Fault(
        "checkpoint: its folder emptied",
        lambda run, _: folder(newest(run, "_CHECKPOINT_METADATA").parent),
    ),
    Fault(
        "checkpoint: renamed to a later step",
        lambda run, _: newest(run, "_CHECKPOINT_METADATA").parent.rename(
            run / "checkpoints" / "99"
        ),
        said="checkpoint 99 is damaged and passed over: .*step 12, renamed",
    ),
    Fault(
        "checkpoint: every note cut",
        every_checkpoint(cut),
        refusal="there is no readable checkpoint in .*step 12",
    ),
    Fault(
        "checkpoint: all of them gone",
        lambda run, _: [gone(run / one) for one in ("checkpoints",)],
        refusal="has figures but no checkpoint to resume from: start another",
    ),
    to("metrics.jsonl", "its last line cut", lambda file: file.write_text(
        file.read_text()[:-20]
    )),
    to("metrics.jsonl", "gone", gone),
    to("metrics.jsonl", "emptied", empty),
    to("metrics.jsonl", "a byte flipped", flip),
    to("metrics.jsonl", "half of it cut", cut),
    to("metrics.jsonl", "a line of something else", appended("[1]\n")),
    to("metrics.jsonl", "a step twice", appended('{"step": 3, "fitness/mean": 1}\n')),
    to("metrics.jsonl", "a step missing", without_line(4)),
    to("metrics.jsonl", "a folder in its place", folder,
       "metrics.jsonl: Is a directory: move"),
    to("config.yaml", "gone", gone, "is no run: expected a directory"),
    to("config.yaml", "emptied", empty, "config.yaml"),
    to("config.yaml", "half of it cut", cut, "config.yaml"),
    to("config.yaml", "a byte that is no text", lambda file: file.write_bytes(
        b"\xff" + file.read_bytes()
    ), "config.yaml"),
    to("config.yaml", "another seed", replaced("seed: 0", "seed: 1"),
       "seed is 1, and was 0"),
    to("config.yaml", "a rate of NaN", replaced("learning_rate: 0.05",
       "learning_rate: .nan"), "learning_rate"),
    to("config.yaml", "a typo in a name", replaced("seed:", "sed:"), "sed"),
    to("config.yaml", "a task that is none", replaced("toy:Line", "os:system"),
       "os:system: expected a dataclass"),
    to("task.json", "gone", gone),
    to("task.json", "half of it cut", cut),
    to("task.json", "something else", text("[1]")),
    to(".lock", "gone", gone),
    to(".lock", "something else in it", text("\x00" * 9)),
    to(".lock", "a folder in its place", folder, "lock: Is a directory: move"),
    to(".origin", "gone", lambda file: file.unlink(missing_ok=True)),
    to("curve.png", "a folder in its place", lambda file: (file / "x").mkdir(
        parents=True
    ), "curve.png: Is a directory: move"),
    Fault("another process is at it", held, refusal="is in use by process .*wait"),
    Fault("a killed process", stopped(raised(KeyboardInterrupt()))),
    Fault("an error of the task", stopped(raised(RuntimeError("a bug")))),
    Fault("SIGTERM", stopped(lambda: os.kill(os.getpid(), signal.SIGTERM))),
    Fault("SIGINT", stopped(lambda: os.kill(os.getpid(), signal.SIGINT))),
    Fault("the clock set back by a year", clock),
    Fault("metrics.jsonl read-only", refuses("metrics.jsonl", ROFS),
          refusal="metrics.jsonl cannot be written .Read-only file system.: make room"),
    Fault("disk full at metrics.jsonl", refuses("metrics.jsonl", FULL),
          refusal="metrics.jsonl cannot be written .No space left on device.: make"),
    Fault("disk full at a checkpoint", full_checkpoints,
          refusal="checkpoint of step .* cannot be written to .*No space left"),
    Fault("disk full at the curve", fails(curves, "save", OSError(
        FULL, os.strerror(FULL), "curve.png")),
          refusal="curve.png: No space left on device: make room"),
    Fault("disk full at config.yaml", refuses("config.new.yaml", FULL),
          refusal="config.new.yaml: No space left on device: make room"),
]  # fmt: skip


# --- what becomes of it


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return train(config(tmp_path_factory.mktemp("whole")))[0].path


def resumed(run: Path) -> int:
    words = ["train", "--resume", str(run), "--trust", "--generations", str(END)]
    return main(words)


@functools.cache
def untouched(whole: Path) -> dict[str, str]:
    run = whole.with_name("untouched")
    shutil.copytree(whole, run)
    assert resumed(run) == 0
    return parameters(run)


def parameters(path: Path) -> dict[str, str]:
    run = runs.load(path, trust=True)
    like = training.initial_state(training.prepare(run.config))
    return digests(Checkpoints(run.checkpoints).restore(like, END).state)


@contextlib.contextmanager
def patience(seconds: int):
    """Ends what hangs."""

    def end(*_):
        raise AssertionError(f"nothing has happened for {seconds} seconds")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


QUICK = {
    "checkpoint: the data flip",
    "metrics.jsonl: gone",
    "config.yaml: another seed",
}
QUICK |= {"another process is at it", "disk full at a checkpoint"}
MATRIX = [
    pytest.param(one, id=one.name, marks=() if one.name in QUICK else pytest.mark.slow)
    for one in FAULTS
]


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="there is no alarm")
@pytest.mark.parametrize("fault", MATRIX)
def test_a_fault_loses_nothing_and_is_told_in_a_line(
    whole, tmp_path, monkeypatch, capsys, fault
):
    expected = untouched(whole)
    run = tmp_path / "line"
    shutil.copytree(whole, run)
    fault.do(run, monkeypatch)
    capsys.readouterr()
    with patience(120):
        status = resumed(run)
    monkeypatch.undo()
    told = capsys.readouterr()
    if fault.refusal:
        assert status == 2, told.out
        assert re.search(fault.refusal, told.err), told.err
        assert told.err.startswith("eggroll: ")
        assert len(told.err) < 500
        assert told.err.count("\n") == 1
        return
    assert (status, told.err) == (0, "")
    assert re.search(fault.said, told.out)
    assert parameters(run) == expected
    assert metrics.read(run / "metrics.jsonl")[-1]["step"] == END


def test_the_matrix_is_large_and_its_table_stands_in_the_documents():
    assert len(FAULTS) >= 40
    assert len({one.name for one in FAULTS}) == len(FAULTS)
    found = DOCUMENT.read_text(encoding="utf-8")
    rows = [f"| {one.name} | {'refused' if one.refusal else SAME} |" for one in FAULTS]
    assert [row for row in rows if row not in found] == []


# --- those who only look


DAMAGES = {
    "metrics.jsonl gone": lambda run: gone(run / "metrics.jsonl"),
    "metrics.jsonl of something else": lambda run: flip_all(run / "metrics.jsonl"),
    "config.yaml gone": lambda run: gone(run / "config.yaml"),
    "config.yaml half cut": lambda run: cut(run / "config.yaml"),
    "task.json half cut": lambda run: cut(run / "task.json"),
    "a checkpoint damaged": lambda run: flip(newest(run, FILES["the data"])),
    "all checkpoints gone": lambda run: gone(run / "checkpoints"),
}


def flip_all(file: Path) -> None:
    file.write_bytes(bytes(one ^ 255 for one in file.read_bytes()))


@pytest.mark.parametrize("damage", DAMAGES)
def test_who_looks_at_a_damaged_run_sees_the_rest_or_is_told_in_a_line(
    whole, tmp_path, capsys, damage
):
    run = tmp_path / "line"
    shutil.copytree(whole, run)
    DAMAGES[damage](run)
    picture = ["--output", str(tmp_path / "x.png")]
    commands = [
        ["plot", run],
        ["compare", run, run, *picture],
        ["doctor", run],
        ["report", run, "--output", tmp_path / "x.html"],
        ["eval", run, "--trust"],
    ]
    for words in commands:
        with patience(60):
            status = main([str(word) for word in words])
        told = capsys.readouterr().err
        assert (status == 2) == bool(told), words
        assert len(told) < 500
        assert told.count("\n") == (status == 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "policy", "refusal"),
    [
        ("Broken", "count", "step 6: the fitness of all 8 members is NaN or infinite"),
        ("HalfBroken", "stop", "step 6: one member of every pair has failed"),
        ("HalfBroken", "count", ""),
    ],
)
def test_fitness_that_is_no_number_loses_no_step(tmp_path, task, policy, refusal):
    settings = config(
        tmp_path, "algorithm=eggroll", f"unusable_steps={policy}", task=task
    )
    if not refusal:
        assert len(figures(train(settings)[0])) == 13
        return
    with pytest.raises(UserError, match=refusal) as raised:
        train(settings)
    assert len(str(raised.value)) < 500
    saved = Checkpoints(tmp_path / "line" / "checkpoints").steps()
    assert max(saved) >= 5
