"""Action spaces: what an environment accepts.

Three kinds cover every library adapted here. Leading axes are allowed everywhere:
a team of agents is a space of one agent's actions used with one more axis.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Discrete:
    """One of `n` actions, numbered from 0; an int32 scalar."""

    n: int

    def __post_init__(self):
        if self.n < 1:
            raise ValueError(f"A Discrete space needs at least 1 action, got {self.n}.")


@dataclasses.dataclass(frozen=True)
class MultiDiscrete:
    """Several choices made at once; an int32 vector, entry i below `sizes[i]`."""

    sizes: tuple[int, ...]

    def __post_init__(self):
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(
                "A MultiDiscrete space needs one or more choices of at least 1 "
                f"action each, got sizes={self.sizes}."
            )


@dataclasses.dataclass(frozen=True)
class Box:
    """Real numbers between `low` and `high`; a float32 vector as long as these.

    Bounds may be infinite; `tasks.control.action_head` then leaves the number unscaled.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self):
        if len(self.low) != len(self.high) or not self.low:
            raise ValueError(
                "A Box needs as many lower as upper bounds, and at least one; got "
                f"{len(self.low)} and {len(self.high)}."
            )
        if not np.all(np.less(self.low, self.high)):
            raise ValueError(
                f"A Box needs low < high, got low={self.low} and high={self.high}."
            )

    @classmethod
    def of(cls, low: object, high: object, size: int) -> "Box":
        """Make a box of `size` numbers from scalar or array-like bounds."""
        lows, highs = (
            np.broadcast_to(np.asarray(bound, np.float32).reshape(-1), (size,))
            for bound in (low, high)
        )
        return cls(tuple(lows.tolist()), tuple(highs.tolist()))

    @property
    def size(self) -> int:
        """How many numbers make an action."""
        return len(self.low)


Space = Discrete | MultiDiscrete | Box


def in_words(space: Space) -> str:
    """What an action is, for people."""
    if isinstance(space, Discrete):
        return f"one of {space.n}"
    if isinstance(space, MultiDiscrete):
        return f"{len(space.sizes)} choices, of {', '.join(map(str, space.sizes))}"
    bounds = set(zip(space.low, space.high, strict=True))
    low, high = min(space.low), max(space.high)
    each = "each " if len(bounds) == 1 and space.size > 1 else ""
    numbers = "1 number" if space.size == 1 else f"{space.size} numbers"
    return f"{numbers}, {each}from {low:g} to {high:g}"
