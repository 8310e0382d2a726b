"""Matrices that get full-rank noise because of what a function does to them.

A vector is full rank by nature, and so is a table of numbers that are added to
activations. A matrix that meets an operation without a rule before it is contracted
loses its low rank there: its members are right, but dear. That is said.
"""

import dataclasses
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Protocol


# From this share of the parameters on, it is worth a warning.
_SHARE = 0.1
_ADVICE = "give it a rule (full_rank() or frozen), or allow it with strict=False"


@dataclasses.dataclass(frozen=True)
class Lost:
    """Where a matrix lost its low rank.

    Attributes:
        primitive: the operation.
        line: where that is in the user's function, such as "model.py:12", if known.
        is_split: whether it takes slices out of what is stack and matrix in one.
    """

    primitive: str
    line: str = dataclasses.field(default="", compare=False)
    is_split: bool = False

    def __str__(self) -> str:
        where = f" ({self.line})" if self.line else ""
        return f"`{self.primitive}`{where}"


class Leaf(Protocol):
    """What is needed of a leaf's layout; see `layout.Layout`."""

    @property
    def path(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def lost(self) -> Lost | None: ...
    @property
    def is_frozen(self) -> bool: ...


def refuse_lost(plan: Iterable[Leaf | None]) -> None:
    """Refuses a plan by which a matrix has lost its low rank.

    Raises:
        ValueError: naming the leaf and the operation.
    """
    for leaf in plan:
        if leaf is None or leaf.lost is None:
            continue
        name = f"the leaf {leaf.path} of shape {leaf.shape}"
        if leaf.lost.is_split:
            raise ValueError(
                f"strict: {leaf.lost} takes slices out of a dimension of {name} that "
                f"is stack and matrix in one, so it needs full-rank noise; keep the "
                f"stack as a dimension of its own, {_ADVICE}"
            )
        raise ValueError(
            f"strict: {leaf.lost} has no rule for a matrix, so {name} loses its low "
            f"rank there, before anything is multiplied by it, and needs full-rank "
            f"noise; {_ADVICE}"
        )


def warn_lost(plan: Iterable[Leaf | None]) -> None:
    """Warns when more than a tenth of what evolves has lost its low rank."""
    evolved = [x for x in plan if x is not None and not x.is_frozen]
    lost = [x for x in evolved if x.lost is not None]
    share = _size(lost) / max(1, _size(evolved))
    if share > _SHARE:
        shown = "; ".join(told(lost, limit=3))
        warnings.warn(
            f"{share:.0%} of the parameters are matrices that get full-rank noise, "
            f"which costs memory and time: {shown}. See eggroll.coverage; a rule that "
            f"says full_rank() for them says that this is meant",
            UserWarning,
            stacklevel=2,
        )


def told(leaves: Iterable[Leaf], limit: int | None = None) -> list[str]:
    """Says which leaves lost their low rank, and where, a sentence for each place.

    Args:
        leaves: those that did not are passed over.
        limit: how many leaves of one place are named, and how many places; None for
            all.
    """
    places: dict[str, list[str]] = {}
    for leaf in leaves:
        if leaf.lost is not None:
            places.setdefault(str(leaf.lost), []).append(leaf.path)
    said = [
        f"{_some(paths, limit)} lost {'its' if len(paths) == 1 else 'their'} low rank "
        f"at {place}"
        for place, paths in places.items()
    ]
    more = [] if limit is None or len(said) <= limit else ["and elsewhere"]
    return [*said[:limit], *more]


def _some(paths: Sequence[str], limit: int | None) -> str:
    shown = ", ".join(paths[:limit])
    rest = 0 if limit is None else len(paths) - limit
    return f"{shown} and {rest} more" if rest > 0 else shown


def _size(leaves: Iterable[Leaf]) -> int:
    return sum(math.prod(x.shape) for x in leaves)
