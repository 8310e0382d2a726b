"""Problems in two parts, and the order they are read in."""

from collections import Counter
from random import Random

import pytest

from eggroll import UserError
from tasks.reasoning import rows
from tasks.reasoning.rows import Dataset, Row


def row(number, **columns):
    return Row(f"What is {number}?", {"answer": number, **columns}, number)


def among(size):
    """A stream with so many different rows."""
    return lambda index: row(Random(index).randrange(size))


def test_a_step_reads_what_no_other_of_its_pass_does():
    dataset = Dataset("some", [row(i) for i in range(12)], [row(99)])
    for epoch in range(3):
        steps = [dataset.rows(3 * epoch + step, 4, seed=5) for step in range(3)]
        read = [one.content for step in steps for one in step]
        assert sorted(read) == list(range(12))


def test_reading_is_a_pure_function_of_the_step():
    dataset = Dataset("some", [row(i) for i in range(10)], [row(99)])
    forwards = [dataset.rows(step, 3, seed=1) for step in range(9)]
    backwards = [dataset.rows(step, 3, seed=1) for step in reversed(range(9))]
    assert forwards == backwards[::-1]
    assert forwards != [dataset.rows(step, 3, seed=2) for step in range(9)]


def test_a_step_may_read_more_than_there_is():
    dataset = Dataset("some", [row(i) for i in range(3)], [row(99)])
    counts = Counter(one.content for one in dataset.rows(0, 7))
    assert set(counts.values()) <= {2, 3}


def test_generated_parts_are_disjoint_and_validation_has_no_row_twice():
    dataset = rows.generated("some", among(50), train=400, validation=20, reward="")
    rows.check_disjoint(dataset)
    assert len(dataset.train) == 400
    assert {one.content for one in dataset.train} == set(range(50)) - {
        one.content for one in dataset.validation
    }
    assert dataset.train[-1] == dataset.train[399]
    assert dataset.train[3:5] == [dataset.train[3], dataset.train[4]]
    with pytest.raises(IndexError):
        dataset.train[400]


def test_a_larger_train_part_begins_with_the_same_rows():
    few, many = (rows.generated("x", lambda i: row(i), n, 5, "") for n in (10, 1000))
    assert few.train[:10] == many.train[:10]
    assert few.validation == many.validation


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (10, "hardly more than 10 different items, but validation wants 20"),
        (20, "1000 draws gave nothing that is not in validation"),
    ],
)
def test_too_small_a_space_is_refused_at_once(size, message):
    with pytest.raises(UserError, match=message):
        rows.generated("some", among(size), train=100, validation=20, reward="")


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0)])
def test_empty_parts_are_refused(sizes):
    with pytest.raises(UserError, match="must be at least 1, got 0"):
        rows.generated("some", among(50), *sizes, "")


def test_given_rows_are_divided_by_their_content():
    given = [row(i % 40, place=i) for i in range(100)]
    dataset = rows.divided("some", given, 10, seed=0)
    rows.check_disjoint(dataset)
    assert len(dataset.validation) == 10
    held_out = {one.content for one in dataset.validation}
    assert list(dataset.train) == [one for one in given if one.content not in held_out]
    assert rows.divided("some", given[::-1], 10, seed=0).validation != []
    assert {
        one.content for one in rows.divided("x", given[::-1], 10, 0).validation
    } == (held_out)


@pytest.mark.parametrize(
    ("given", "validation", "message"),
    [
        ([], 1, "'some' is empty"),
        ([row(1), row(1)], 1, "leave some of the 1 different rows"),
        ([row(1), row(2)], 2, "leave some of the 2 different rows"),
        ([row(1), row(2)], 0, "at least 1"),
    ],
)
def test_too_few_rows_to_divide_are_refused(given, validation, message):
    with pytest.raises(UserError, match=message):
        rows.divided("some", given, validation, seed=0)


def test_two_parts_with_a_common_row_are_refused_by_its_name():
    train, validation = [row(1), row(2), row(3)], [row(4), row(3)]
    with pytest.raises(UserError, match=r"row 2 of train is row \d of validation: '3'"):
        rows.paired("some", train, validation, 10, seed=0)
    with pytest.raises(UserError, match="its validation is empty"):
        rows.paired("some", train, [], 10, seed=0)


def test_a_row_twice_in_validation_is_told():
    twice = Dataset("some", [row(1)], [row(2), row(3), row(2)])
    with pytest.raises(UserError, match="rows 0 and 2 of validation are the same: '2'"):
        rows.check_disjoint(twice)


def test_of_a_part_for_validation_some_may_do():
    dataset = rows.paired("x", [row(0)], [row(i) for i in range(1, 50)] * 2, 10, seed=0)
    assert len({one.content for one in dataset.validation}) == 10


def test_prompts_are_the_same_whatever_their_case_and_spaces():
    talk = [{"role": "user", "content": "How  MANY\nare there?"}]
    assert rows.content_of(talk) == rows.content_of("how many are there? ")


def test_a_missing_column_is_named():
    dataset = Dataset("some", [row(1)], [row(2)])
    dataset.require(("answer",))
    with pytest.raises(UserError, match="reads a column 'target', but train has 'answ"):
        dataset.require(("answer", "target"))
