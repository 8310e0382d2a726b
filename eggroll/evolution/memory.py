"""How many members fit: memory is planned, not hoped for.

The plan is an upper bound that needs no compilation: the most bytes of intermediate
arrays that are alive at once in one member's trace, and the bytes of its noise.
"""

import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from eggroll.perturbation import jaxprs
from eggroll.perturbation.layout import Layout


# A drawn value is kept as int8 and converted, in the worst case, to float32 for use;
# beside it lie the random words it was made from (16 bits at most).
BYTES_PER_VALUE = 1 + 4 + 2


def budget() -> int:
    """Bytes of one device that a population may fill: a quarter of what it has."""
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is None:
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit //= jax.local_device_count()
    return limit // 4


def noise_bytes(plan: Sequence[Layout | None]) -> int:
    """Bytes of the noise of one member (or of one pair, for an update)."""
    return sum(x.values for x in plan if x is not None) * BYTES_PER_VALUE


def member_bytes(jaxpr: ClosedJaxpr, plan: Sequence[Layout | None]) -> int:
    """An upper bound of the bytes that evaluating one member takes."""
    return noise_bytes(plan) + _peak(jaxpr.jaxpr) + _bytes(jaxpr.jaxpr.outvars)


def rows_within(available: int, bytes_per_row: int) -> int:
    """How many rows (members, pairs) fit into a number of bytes; at least one."""
    return max(1, available // max(1, bytes_per_row))


def _peak(jaxpr: Jaxpr) -> int:
    """The most bytes of intermediate results alive at once, inner functions too."""
    last_use = {
        v: i
        for i, eqn in enumerate(jaxpr.eqns)
        for v in eqn.invars
        if not jaxprs.is_literal(v)
    }
    results = {v for v in jaxpr.outvars if not jaxprs.is_literal(v)}
    alive, now, peak = {}, 0, 0
    for i, eqn in enumerate(jaxpr.eqns):
        for v in eqn.outvars:
            alive[v] = _bytes([v])
            now += alive[v]
        inner = max((_peak(j) for j in _inner(eqn.params.values())), default=0)
        peak = max(peak, now + inner)
        for v in {v for v in (*eqn.invars, *eqn.outvars) if not jaxprs.is_literal(v)}:
            if v in alive and last_use.get(v, i) <= i and v not in results:
                now -= alive.pop(v)
    return peak


def _bytes(variables: Iterable[Any]) -> int:
    return sum(
        math.prod(v.aval.shape) * v.aval.dtype.itemsize
        for v in variables
        if hasattr(v.aval, "shape")
    )


def _inner(params: Iterable[Any]) -> Iterable[Jaxpr]:
    for value in params:
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (Jaxpr, ClosedJaxpr)):
                yield jaxprs.close(item).jaxpr
