"""Problems to train on and problems to be judged on, with none in common."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
from jaxtyping import Int

from eggroll import UserError


Messages = list[dict[str, str]]
TRIES = 1000  # for an item that is not in the other part


class Row(NamedTuple):
    """One problem.

    Attributes:
        prompt: a text, or the messages of a conversation.
        columns: what the reward is told, by name.
        content: what makes it this problem: two rows of one content are the same.
    """

    prompt: str | Messages
    columns: Mapping[str, Any]
    content: Hashable


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Problems in two parts, disjoint by content.

    Attributes:
        name: of the source.
        train: rows by number; generated ones are made when asked for.
        validation: distinct rows.
        reward: the name of the reward that is made for them, "" if there is none.
        reward_options: of that reward.
    """

    name: str
    train: Sequence[Row]
    validation: Sequence[Row]
    reward: str = ""
    reward_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def rows(self, step: int, count: int, *, seed: int = 0) -> list[Row]:
        """The rows that a step reads, in the order of `places`."""
        return [self.train[i] for i in self.places(step, count, seed=seed).tolist()]

    def places(
        self, step: int, count: int, *, seed: int = 0
    ) -> Int[np.ndarray, " count"]:
        """Which rows of `train` a step reads: each once before any comes again.

        A pure function of its arguments, so that a resumed run reads what it would have
        read.

        Args:
            step: number of the step, from 0.
            count: rows a step.
            seed: of the order; each pass has an order of its own.
        """
        size = len(self.train)
        places = range(step * count, (step + 1) * count)
        return np.asarray([_order(seed, p // size, size)[p % size] for p in places])

    def require(self, columns: Iterable[str]) -> None:
        """Refuses a dataset without a column that a reward reads.

        Raises:
            UserError: naming the column and those that there are.
        """
        for part, rows in (("train", self.train), ("validation", self.validation)):
            for name in columns:
                if name not in rows[0].columns:
                    known = ", ".join(map(repr, rows[0].columns)) or "none"
                    raise UserError(
                        f"dataset {self.name!r}: the reward reads a column {name!r}, "
                        f"but {part} has {known}: name it in dataset_options.columns, "
                        "as {wanted: of the source}, or choose another reward"
                    )


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(size)


class Generated(Sequence[Row]):
    """Rows that are drawn when they are asked for, none of them in `held_out`.

    Args:
        draw: the row of an index, always the same.
        size: how many there are.
        first: the index of the first row; those of `held_out` came before.
        held_out: rows whose content is not drawn.
        name: of the source, for messages.
    """

    def __init__(
        self,
        draw: Callable[[int], Row],
        size: int,
        first: int,
        held_out: Iterable[Row],
        name: str,
    ):
        self._draw, self._size, self._first, self._name = draw, size, first, name
        self._taken = {row.content for row in held_out}

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._size))]
        if not -self._size <= index < self._size:
            raise IndexError(f"row {index} of {self._size}")
        for attempt in range(TRIES):  # at indices that no other row uses
            place = index % self._size + attempt * self._size
            row = self._draw(self._first + place)
            if row.content not in self._taken:
                return row
        raise UserError(
            f"dataset {self._name!r}: {TRIES} draws gave nothing that is not in "
            "validation: choose wider ranges, or a smaller validation"
        )


def generated(
    name: str, draw: Callable[[int], Row], train: int, validation: int, reward: str
) -> Dataset:
    """Divides one stream of rows: the first different ones are for validation.

    Args:
        name: of the source.
        draw: the row of an index of the stream.
        train: how many rows to learn from; some may be equal.
        validation: how many rows to be judged on, all of different content.
        reward: that is made for them.

    Raises:
        UserError: a size is not positive, or there are too few different rows.
    """
    for part, size in (("train", train), ("validation", validation)):
        if size < 1:
            raise UserError(f"dataset {name!r}: {part} must be at least 1, got {size}")
    held_out: dict[Hashable, Row] = {}
    index, fruitless = 0, 0
    while len(held_out) < validation:
        row = draw(index)
        fresh = row.content not in held_out
        held_out.setdefault(row.content, row)
        index, fruitless = index + 1, 0 if fresh else fruitless + 1
        if fruitless > TRIES:
            raise UserError(
                f"dataset {name!r}: it has hardly more than {len(held_out)} different "
                f"items, but validation wants {validation}: choose wider ranges, or a "
                "smaller validation"
            )
    rows = tuple(held_out.values())
    found = Dataset(name, Generated(draw, train, index, rows, name), rows, reward)
    found.train[0]  # so that a range too narrow is refused now
    return found


def divided(name: str, rows: Sequence[Row], validation: int, seed: int) -> Dataset:
    """Divides given rows by the hash of their content: equal ones stay together.

    Raises:
        UserError: there are too few.
    """
    if not rows:
        raise UserError(f"dataset {name!r} is empty: expected at least one row a part")
    different = {row.content: row for row in reversed(rows)}  # the first of each
    if not 0 < validation < len(different):
        raise UserError(
            f"dataset {name!r}: validation must be at least 1 and leave some of the "
            f"{len(different)} different rows for training, got {validation}"
        )
    ranked = sorted(different, key=lambda content: _digest(content, seed))
    chosen = {content: different[content] for content in ranked[:validation]}
    train = tuple(row for row in rows if row.content not in chosen)
    return Dataset(name, train, tuple(chosen.values()))


def paired(
    name: str, train: Sequence[Row], validation: Sequence[Row], count: int, seed: int
) -> Dataset:
    """Puts two parts together that came apart; at most `count` rows validate.

    Raises:
        UserError: a part is empty, or a row of one is in the other.
    """
    for part, rows in (("train", train), ("validation", validation)):
        if not rows:
            raise UserError(f"dataset {name!r}: its {part} is empty")
    different = {row.content: row for row in reversed(validation)}
    ranked = sorted(different, key=lambda content: _digest(content, seed))
    found = Dataset(name, tuple(train), tuple(different[c] for c in ranked[:count]))
    check_disjoint(found)
    return found


def check_disjoint(dataset: Dataset) -> None:
    """Refuses a dataset that is judged on what it was trained on, or twice on one.

    Raises:
        UserError: naming a row of both parts.
    """
    places: dict[Hashable, int] = {}
    for number, row in enumerate(dataset.validation):
        if row.content in places:
            raise UserError(
                f"dataset {dataset.name!r}: rows {places[row.content]} and {number} of "
                f"validation are the same: {str(row.content)[:200]!r}"
            )
        places[row.content] = number
    for number, row in enumerate(dataset.train):
        if row.content in places:
            raise UserError(
                f"dataset {dataset.name!r}: row {number} of train is row "
                f"{places[row.content]} of validation: {str(row.content)[:200]!r}: "
                "remove it from one of them"
            )


def content_of(prompt: str | Messages) -> str:
    """What a prompt asks, whatever its case and spaces."""
    if not isinstance(prompt, str):
        prompt = " ".join(message["content"] for message in prompt)
    return " ".join(prompt.casefold().split())


def _digest(content: Hashable, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{content}".encode(errors="replace")).digest()
