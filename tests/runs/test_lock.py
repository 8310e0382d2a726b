import subprocess
import sys

import pytest

from eggroll.errors import UserError
from eggroll.runs import lock, sitting


HOLDER = """
import sys, time
from pathlib import Path
from eggroll.runs import lock
with lock.sitting(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(path) -> None:
    with sitting(path):
        pass


def test_one_sits_at_a_time_and_the_next_one_after(tmp_path):
    with sitting(tmp_path), pytest.raises(UserError, match=r"in use by process \d+ on"):
        hold(tmp_path)
    hold(tmp_path)


def test_an_error_gives_the_lock_back(tmp_path):
    with pytest.raises(ZeroDivisionError), sitting(tmp_path):
        raise ZeroDivisionError
    hold(tmp_path)


def test_a_kill_gives_the_lock_back(tmp_path):
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {other.pid} on"):
            hold(tmp_path)
        other.kill()
    hold(tmp_path)


def test_where_there_are_no_locks_that_is_said(tmp_path, monkeypatch, caplog):
    def refuse(file):
        raise OSError(lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_lock", refuse)
    hold(tmp_path)
    assert "without locks (No locks available)" in caplog.text
