"""What devices send each other, read from compiled programs."""

import collections
import math
import re
from typing import NamedTuple


_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_CALL = re.compile(rf"= (.+?) ({_KINDS})(?:-start)?\(")
_ARRAY = re.compile(r"\b(pred|bf16|[sufc]\d+)\[([\d,]*)\]")


class Sent(NamedTuple):
    """One collective operation.

    Attributes:
        kind: such as "all-reduce".
        elements: of its results, on one device.
        types: of these.
    """

    kind: str
    elements: int
    types: frozenset[str]


def sent(hlo: str) -> list[Sent]:
    """The collectives of a program, each once, however often a loop runs it."""
    found = []
    for result, kind in _CALL.findall(hlo):
        arrays = _ARRAY.findall(result)
        sizes = [math.prod(int(n) for n in dims.split(",") if n) for _, dims in arrays]
        found.append(Sent(kind, sum(sizes), frozenset(t for t, _ in arrays)))
    return found


def by_kind(hlo: str) -> dict[str, int]:
    """How many elements the collectives of each kind result in, all together."""
    total: dict[str, int] = collections.Counter()
    for one in sent(hlo):
        total[one.kind] += one.elements
    return dict(total)
