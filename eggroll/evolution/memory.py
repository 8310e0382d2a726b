"""How many members fit: memory is planned, not hoped for.

The plan is an upper bound that needs no compilation: the most bytes of intermediate
arrays that are alive at once in one member's trace, and the bytes of its noise.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from eggroll.evolution import footprint
from eggroll.evolution.buffers import bytes_of
from eggroll.perturbation import jaxprs
from eggroll.perturbation.layout import Layout
from eggroll.perturbation.transform import RULES


# A drawn value is kept as int8 and converted, in the worst case, to float32 for use;
# beside it lie the random words it was made from (16 bits at most).
BYTES_PER_VALUE = 1 + 4 + 2

# Where Linux says what a container may take, by the version of its control groups.
GROUPS = Path("/sys/fs/cgroup")
LIMITS = ("memory.max", "memory/memory.limit_in_bytes")


def budget() -> int:
    """Bytes of one device that a population may fill: a quarter of what it has.

    Devices that do not tell share what the machine has, or the container.
    """
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is None:
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit = min([limit, *_container_limits()])
        limit //= jax.local_device_count()
    return limit // 4


def _container_limits() -> Iterator[int]:
    """The bytes that this process may take, where it is told."""
    for name in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max": there is no limit
            yield int((GROUPS / name).read_text())


def noise_bytes(plan: Sequence[Layout | None]) -> int:
    """Bytes of the noise of one member (or of one pair, for an update)."""
    return sum(x.values for x in plan if x is not None) * BYTES_PER_VALUE


def member_bytes(jaxpr: ClosedJaxpr, plan: Sequence[Layout | None]) -> int:
    """An upper bound of the bytes that evaluating one member takes.

    Args:
        jaxpr: of one member; its first arguments are the leaves of the plan.
        plan: how they are perturbed. Of a leaf that is frozen or of low rank, all
            members share the weight, and views of it.
    """
    ways = enumerate(plan)
    shared = [i for i, x in ways if x is not None and (x.is_frozen or x.cols)]
    peak = footprint.peak(jaxpr.jaxpr, shared=shared, extra=_written_out)
    return noise_bytes(plan) + peak


def rows_within(available: int, bytes_per_row: int) -> int:
    """How many rows (members, pairs) fit into a number of bytes; at least one."""
    return max(1, available // max(1, bytes_per_row))


def _written_out(eqn: JaxprEqn, shared: Sequence[bool]) -> int:
    """Bytes of the matrices that an operation needs written out for a member.

    One that has a rule, or is entered, takes weight and factors apart. (What is frozen
    is counted in vain.)
    """
    if eqn.primitive.name in RULES or jaxprs.inlined(eqn) is not None:
        return 0
    whole = {v for v, is_shared in zip(eqn.invars, shared, strict=True) if is_shared}
    return sum(bytes_of(v.aval) for v in whole)
