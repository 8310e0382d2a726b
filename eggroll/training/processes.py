"""What the processes of a run agree on, where JAX runs on several hosts.

Each runs the same program on its own devices. The first decides, claims the directory
and alone writes figures; what it found or decided is told to all. Everything here is
called by all processes in the same order, and by one alone does nothing.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from eggroll.errors import UserError


T = TypeVar("T")


def is_first() -> bool:
    """Whether this process decides, writes and speaks."""
    return jax.process_index() == 0


def by_first(function: Callable[[], T]) -> T:
    """What a function returns on the first process, which alone calls it.

    Args:
        function: returns plain data, such as JSON holds.

    Raises:
        UserError: in all processes, if the function raises one.
    """
    if jax.process_count() == 1:
        return function()
    told: dict[str, Any] = {}
    if is_first():
        try:
            told = {"result": function()}
        except (UserError, OSError) as error:
            told = {"error": str(error)}
    told = _told(told)
    if "error" in told:
        raise UserError(told["error"])
    return told["result"]


def share(count: int) -> slice:
    """Which of so many things this process sees to; the shares differ by one."""
    processes, here = jax.process_count(), jax.process_index()
    return slice(count * here // processes, count * (here + 1) // processes)


def joined(part: T) -> list[T]:
    """What each process gives, plain data such as JSON holds, in their order."""
    if jax.process_count() == 1:
        return [part]
    text = json.dumps(part).encode()
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(len(text))))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded))
    pairs = zip(rows, sizes.tolist(), strict=True)
    return [json.loads(bytes(row[:size])) for row, size in pairs]


def agreed(decision: int, urgency: int) -> tuple[int, int]:
    """What the first process decided, and the greatest urgency of any."""
    if jax.process_count() == 1:
        return decision, urgency
    all_of_them = multihost_utils.process_allgather(np.array([decision, urgency]))
    decisions, urgencies = np.asarray(all_of_them).T
    return int(decisions[0]), int(urgencies.max())


def whole(tree: Any) -> Any:
    """Arrays as each process has them, of which others may have parts, on the host."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    gather = lambda x: np.asarray(
        x
        if x.is_fully_replicated or x.is_fully_addressable
        else multihost_utils.process_allgather(x, tiled=True)
    )
    return jax.tree.map(gather, tree)


def of_here(tree: Any, count: int) -> tuple[slice, Any]:
    """The rows of arrays that lie on this process's devices, on the host; and which.

    Where each process has them all, or none that follow one another, they are those of
    its `share`.

    Args:
        tree: arrays of so many rows, divided over devices alike.
        count: rows.
    """
    leaves = jax.tree.leaves(tree)
    lie = [_rows_of(x) for x in leaves if not x.is_fully_replicated]
    starts = sorted(lie[0]) if lie else [0]
    stops = [start + lie[0][start].shape[0] for start in starts] if lie else [count]
    if not lie or starts[1:] != stops[:-1]:
        own = share(count)
        return own, jax.tree.map(lambda x: x[own], whole(tree))
    own = slice(starts[0], stops[-1])

    def part(x: jax.Array) -> np.ndarray:
        if x.is_fully_replicated:
            return np.asarray(x)[own]
        rows = _rows_of(x)
        return np.concatenate([np.asarray(rows[start]) for start in starts])

    return own, jax.tree.map(part, tree)


def _rows_of(x: jax.Array) -> dict[int, jax.Array]:
    """The parts of an array that are here, by their first row."""
    return {part.index[0].start or 0: part.data for part in x.addressable_shards}


def _told(value: Any) -> Any:
    """Plain data of the first process."""
    text = json.dumps(value).encode() if is_first() else b""
    size = multihost_utils.broadcast_one_to_all(np.int32(len(text)))
    padded = np.zeros(int(size), np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))))
