import errno
from pathlib import Path

import numpy as np
import pytest

from eggroll import UserError
from eggroll.runs import replaylog, seals
from eggroll.runs.replaylog import Damaged, Record, Writer


def record(step: int, members: int = 4) -> Record:
    fitness = np.arange(members, dtype=np.float32) + step
    arrays = {"fitness": fitness, "centre": np.int32(step)}
    return Record(step, {"seconds": step / 3}, arrays, ends=step == 6)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Of six steps, in segments of four and of two."""
    writer = Writer(tmp_path, 0, {"config": {"seed": 1}})
    for step in range(1, 7):
        writer.append(record(step))
        if step == 4:
            writer.cut()()
    writer.cut()()
    return tmp_path


def steps(log: Path, after: int = 0, until: int | None = None) -> list[int]:
    return [one.step for _, one in replaylog.records(log, after, until)]


def test_what_is_appended_comes_back_bit_for_bit(log):
    for (segment, found), step in zip(
        replaylog.records(log, 0), range(1, 7), strict=True
    ):
        expected = record(step)
        assert found.progress == expected.progress
        assert found.ends == (step == 6)
        for name, array in expected.arrays.items():
            assert found.arrays[name].dtype == array.dtype
            np.testing.assert_array_equal(found.arrays[name], array)
        assert segment.facts["config"] == {"seed": 1}
    assert [one.start for one in replaylog.segments(log)] == [0, 4]


@pytest.mark.parametrize(
    ("after", "until", "expected"),
    [
        (0, 3, [1, 2, 3]),
        (3, 5, [4, 5]),
        (4, 4, []),
        (6, None, []),
        (2, 9, [3, 4, 5, 6]),
    ],
)
def test_reading_begins_and_ends_where_it_is_asked_to(log, after, until, expected):
    assert steps(log, after, until) == expected


def test_a_log_that_was_cut_anywhere_loses_the_last_record_alone(log):
    last = replaylog.segments(log)[-1]
    whole = last.path.read_bytes()
    for length in range(last.offset, len(whole)):
        last.path.write_bytes(whole[:length])
        kept = (length - last.offset) // last.size
        assert steps(log) == list(range(1, 5 + kept))
        assert replaylog.torn(log, 4 + kept) == (length - last.offset) % last.size


def test_every_bit_of_a_record_is_covered(log):
    first = replaylog.segments(log)[0]
    whole = first.path.read_bytes()
    for place in range(first.offset + first.size, first.offset + 2 * first.size):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        first.path.write_bytes(damaged)
        with pytest.raises(Damaged, match="step 2 is damaged: the last good step is 1"):
            steps(log)
        assert steps(log, until=1) == [1]


def test_zeros_that_a_loss_of_power_leaves_are_a_torn_tail(log):
    last = replaylog.segments(log)[-1]
    with last.path.open("ab") as file:
        file.write(bytes(3 * last.size))
    assert steps(log) == [1, 2, 3, 4, 5, 6]
    assert replaylog.torn(log, 6) == 3 * last.size


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{}")])
def test_a_segment_that_is_gone_or_unreadable_is_a_hole(log, damage):
    damage(replaylog.segments(log)[0].path)
    with pytest.raises(Damaged, match=r"record of step 1 is not there, .* step is 0"):
        steps(log)
    assert steps(log, after=4) == [5, 6]


def test_a_first_line_that_was_edited_does_not_pass(log):
    first = replaylog.segments(log)[0]
    edited = first.path.read_bytes().replace(b'"seed": 1', b'"seed": 2')
    first.path.write_bytes(edited)
    with pytest.raises(Damaged, match="last good step is 0"):
        steps(log)


def test_later_steps_are_forgotten_and_written_anew(log):
    seals.seal(log, 4, {"a": "1"})
    seals.seal(log, 6, {"a": "2"})
    replaylog.forget_after(log, 3)
    seals.forget_after(log, 3)
    assert steps(log) == [1, 2, 3]
    assert seals.sealed(log) == {}
    writer = Writer(log, 3, {})
    writer.append(record(4, members=2))  # of another form than before
    writer.append(record(5, members=3))
    assert steps(log) == [1, 2, 3, 4, 5]
    assert [one.start for one in replaylog.segments(log)] == [0, 3, 4]


def test_what_no_state_needs_is_forgotten(log):
    replaylog.forget_before(log, 3)
    assert steps(log) == [1, 2, 3, 4, 5, 6]
    replaylog.forget_before(log, 4)
    assert steps(log, after=4) == [5, 6]


def test_a_line_of_digests_that_is_damaged_is_none(log):
    seals.seal(log, 4, {"a": "1"})
    seals.seal(log, 5, {"a": "2"})
    path = log / seals.NAME
    path.write_text(path.read_text().replace('"1"', '"3"'))
    assert seals.sealed(log) == {5: {"a": "2"}}


def test_a_full_disk_is_told_with_what_to_do(log, monkeypatch):
    writer = Writer(log, 6, {})

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space .*make room"):
        writer.append(record(7))
