import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from toyrun import config

from eggroll import runs
from eggroll.errors import UserError
from eggroll.runs import Frame, animation, atomic, curves, metrics
from eggroll.sweep.record import Record


def frame(grey: int) -> Frame:
    return Frame(str(grey), lambda: np.full((8, 8, 3), grey, np.uint8))


def film(path: Path) -> None:
    animation.write([frame(0), frame(200)], path)


def picture(path: Path) -> None:
    curves.save(Figure(), path)


def record(path: Path) -> None:
    Record(maximise=True, asked={}).write(path)


def settings(path: Path) -> None:
    runs.change(runs.Run(path.parent, runs.load(path.parent).config), [("seed", "0")])


def rows(path: Path) -> None:
    metrics.forget_after(path, 1)


WRITERS = {
    "film.gif": film,
    "strip.png": film,
    "curve.png": picture,
    "sweep.json": record,
    "config.yaml": settings,
    "metrics.jsonl": rows,
}


class DiskFullError(OSError):
    pass


def names(directory: Path) -> set[str]:
    return {one.name for one in directory.iterdir()} - {".gitignore", ".origin"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file, in a run's directory, that is about to be written anew."""
    return runs.create(config(tmp_path)).path / "file.txt"


def test_a_text_takes_the_place_of_the_one_before(path):
    for text in ("one", "zwölf"):
        atomic.write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert names(path.parent) == {"config.yaml", "file.txt"}


def test_a_failure_in_the_middle_leaves_the_old_file_alone(path):
    path.write_text("old")

    def write() -> None:
        with atomic.replacing(path) as new:
            new.write_text("ne")
            raise DiskFullError

    with pytest.raises(DiskFullError):
        write()
    assert path.read_text() == "old"
    assert names(path.parent) == {"config.yaml", "file.txt"}


def test_what_a_kill_left_behind_is_no_obstacle(path):
    with atomic.replacing(path) as new:
        pass_by = new
        new.write_text("whole")
    pass_by.write_text("of a process that was killed")
    atomic.write_text(path, "next")
    assert path.read_text() == "next"
    assert not pass_by.exists()


def test_what_is_written_is_on_the_disk_before_it_has_its_name(path, monkeypatch):
    events, fsync, replace = [], atomic.os.fsync, Path.replace
    monkeypatch.setattr(
        atomic.os, "fsync", lambda number: events.append("flush") or fsync(number)
    )
    monkeypatch.setattr(
        Path, "replace", lambda *both: events.append("rename") or replace(*both)
    )
    atomic.write_text(path, "text")
    assert events == ["flush", "rename", "flush"]


@pytest.mark.parametrize("name", WRITERS)
def test_every_file_that_is_written_again_stays_whole_if_that_fails(
    path, monkeypatch, name
):
    path = path.with_name(name)
    if name == "metrics.jsonl":
        path.write_text(json.dumps({"step": 1}) + "\n" + json.dumps({"step": 2}) + "\n")
    WRITERS[name](path)
    before, beside = path.read_bytes(), names(path.parent)

    def full(*_):
        raise DiskFullError

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(DiskFullError):
        WRITERS[name](path)
    assert path.read_bytes() == before
    assert names(path.parent) == beside


def test_films_and_strips_can_be_opened(path):
    film(path.with_name("film.gif"))
    film(path.with_name("strip.png"))
    with Image.open(path.with_name("film.gif")) as found:
        assert (found.format, found.n_frames) == ("GIF", 2)
    with Image.open(path.with_name("strip.png")) as found:
        assert found.format == "PNG"


def test_a_directory_is_there_once_it_is_whole(tmp_path):
    path = tmp_path / "a" / "export"
    with atomic.making(path) as new:
        (new / "inner").mkdir()
        (new / "inner" / "file.txt").write_text("one")
        assert not path.exists()
    assert (path / "inner" / "file.txt").read_text() == "one"
    assert names(path.parent) == {"export"}


def test_a_directory_that_fails_in_the_middle_leaves_nothing(tmp_path):
    def write() -> None:
        with atomic.making(tmp_path / "export") as new:
            (new / "file.txt").write_text("on")
            raise DiskFullError

    for _ in range(2):
        with pytest.raises(DiskFullError):
            write()
    assert names(tmp_path) == set()


def test_a_directory_is_not_made_where_there_is_one(tmp_path):
    with (
        pytest.raises(UserError, match="exists already, and nothing is written over"),
        atomic.making(tmp_path),
    ):
        pass
