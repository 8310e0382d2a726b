import json

import pytest

from eggroll.runs import metrics


def written(path, *lines: str, end: str = "\n"):
    path.write_text("\n".join(lines) + end)
    return path


def row(step, **figures) -> str:
    return json.dumps({"step": step, **figures})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


@pytest.mark.parametrize(
    "line",
    [
        "5",
        "null",
        "[1, 2]",
        '"step"',
        "{}",
        '{"step": "1"}',
        '{"step": -1}',
        '{"step": 1.5}',
        '{"step": true}',
        '{"step": 1, "fitness/best": "high"}',
        '{"step": 1, "fitness/best": NaN}',
        '{"step": 1, "fitness/best": null}',
        '{"step": 1, "samples": 1' + "0" * 400 + "}",
        '{"step": 1, "sam',
        "\x00\x00",
        "[" * 5000,
    ],
)
def test_a_line_that_is_no_row_is_named_and_passed_over(path, line):
    found, troubles = metrics.examine(written(path, row(0), line, row(1)))
    assert [one["step"] for one in found] == [0, 1]
    assert troubles == [f"{path}: line 2 cannot be read and is passed over"]


def test_bytes_that_are_no_text_are_a_damaged_line(path):
    path.write_bytes(row(0).encode() + b"\n\xff\xfe\n" + row(1).encode() + b"\n")
    found, troubles = metrics.examine(path)
    assert (len(found), len(troubles)) == (2, 1)


def test_of_steps_that_are_there_twice_the_last_row_counts(path):
    lines = [row(0), row(1, a=1.0), row(2), row(1, a=2.0)]
    found, troubles = metrics.examine(written(path, *lines))
    assert found == [{"step": 0}, {"step": 1, "a": 2.0}, {"step": 2}]
    assert troubles == [f"{path}: step 1 is there twice: the last row counts"]


def test_a_last_line_that_was_cut_short_is_no_trouble(path):
    assert metrics.examine(written(path, row(0), '{"st', end="")) == ([{"step": 0}], [])


def test_holes_are_named_within_and_at_the_end(path):
    written(path, *(row(step) for step in (0, 1, 3, 7, 8)))
    assert metrics.examine(path)[1] == [
        f"{path}: step 2, 4 to 6 is not there: there is a hole"
    ]
    troubles = metrics.forget_after(path, 10)
    assert troubles[-1] == f"{path}: step 9 to 10 is not there: there is a hole"


def test_what_is_forgotten_leaves_a_file_without_trouble(path):
    lines = [row(0), "5", row(1), row(2), row(2), row(3)]
    assert metrics.forget_after(written(path, *lines), 2) != []
    assert metrics.examine(path) == ([{"step": step} for step in range(3)], [])


def test_many_numbers_are_told_in_few_words():
    assert metrics.spans([5, 1, 2, 3, 9]) == "1 to 3, 5, 9"
    assert metrics.spans(list(range(0, 100, 2))) == "0, 2, 4, 6, 8 and others"
