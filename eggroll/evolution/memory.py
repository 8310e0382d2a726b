"""How many members fit: memory is planned, not hoped for.

The plan is an upper bound that needs no compilation: the most bytes of intermediate
arrays that are alive at once in one member's trace, and the bytes of its noise.
"""

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from eggroll.perturbation import jaxprs
from eggroll.perturbation.layout import Layout
from eggroll.perturbation.transform import RULES


# A drawn value is kept as int8 and converted, in the worst case, to float32 for use;
# beside it lie the random words it was made from (16 bits at most).
BYTES_PER_VALUE = 1 + 4 + 2

# Operations that may write their result where an argument was.
IN_PLACE = {
    *("scan", "while", "jit", "pjit", "dynamic_update_slice", "scatter", "select_n"),
    *("add", "sub", "mul", "div", "max", "min", "neg", "abs", "sign", "copy"),
    *("exp", "log", "tanh", "logistic", "sqrt", "rsqrt", "square", "integer_pow"),
}

# Operations of whose result all members have the weight in common: views, sums and
# products of nothing but weights.
VIEWS = {
    *("transpose", "reshape", "squeeze", "slice", "convert_element_type", "copy"),
    *("add", "add_any", "sub", "neg", "concatenate", "dot_general", "name"),
}


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
    inputs = zip(jaxpr.jaxpr.invars, plan, strict=False)
    shared = {v for v, x in inputs if x is not None and (x.is_frozen or x.cols)}
    peak = _peak(jaxpr.jaxpr, shared)
    return noise_bytes(plan) + peak + _bytes(jaxpr.jaxpr.outvars)


def rows_within(available: int, bytes_per_row: int) -> int:
    """How many rows (members, pairs) fit into a number of bytes; at least one."""
    return max(1, available // max(1, bytes_per_row))


def _peak(jaxpr: Jaxpr, shared: set[Any], carried: Sequence[Any] = ()) -> int:
    """The most bytes of intermediate results alive at once, inner functions too.

    Args:
        jaxpr: what is computed.
        shared: its arguments that all members have in common; views of them do not
            count.
        carried: its arguments that a loop hands on, and may be overwritten: they count
            where the loop stands.
    """
    shared, free = {*shared}, {*carried}
    last_use = {
        v: i
        for i, eqn in enumerate(jaxpr.eqns)
        for v in eqn.invars
        if not jaxprs.is_literal(v)
    }
    results = {v for v in jaxpr.outvars if not jaxprs.is_literal(v)}
    alive, now, peak = {}, 0, 0
    for i, eqn in enumerate(jaxpr.eqns):
        common = [not jaxprs.is_literal(v) and v in shared for v in eqn.invars]
        if eqn.primitive.name in VIEWS and all(common):
            shared.update(eqn.outvars)
            continue
        written = [v for v, has in zip(eqn.invars, common, strict=True) if has]
        written = [] if _has_rule(eqn) else [*dict.fromkeys(written)]
        dying = [
            v
            for v in dict.fromkeys(v for v in eqn.invars if not jaxprs.is_literal(v))
            if (v in alive or v in free) and last_use[v] == i and v not in results
        ]
        replaced = {v: _overwritten(eqn, v, dying) for v in eqn.outvars}
        for v, old in replaced.items():
            if old in free:
                free.add(v)
            else:
                alive[v] = alive.pop(old, 0) or _bytes([v])
                now += 0 if old else alive[v]
        inner = max(
            (
                _peak(j, _given(j, common), _carried(eqn, j, replaced.values()))
                for j in _inner(eqn.params.values())
            ),
            default=0,
        )
        peak = max(peak, now + inner + _bytes(written))
        for v in {v for v in (*eqn.invars, *eqn.outvars) if not jaxprs.is_literal(v)}:
            if v in alive and last_use.get(v, i) <= i and v not in results:
                now -= alive.pop(v)
    return peak


def _has_rule(eqn: JaxprEqn) -> bool:
    """Whether an operation takes weight and factors apart, or is entered.

    Else it takes the whole, written out. (What is frozen is counted in vain.)
    """
    return eqn.primitive.name in RULES or jaxprs.inlined(eqn) is not None


def _overwritten(eqn: JaxprEqn, result: Any, dying: list[Any]) -> Any:
    """Takes, of what is not needed any more, that in whose place a result is written.

    Returns None where there is none.
    """
    kind = lambda v: (v.aval.shape, v.aval.dtype)
    for v in dying if eqn.primitive.name in IN_PLACE else ():
        if kind(v) == kind(result):
            dying.remove(v)
            return v
    return None


def _carried(eqn: JaxprEqn, inner: Jaxpr, replaced: Iterable[Any]) -> list[Any]:
    """The arguments of an inner function that it may overwrite: a loop's state."""
    if eqn.primitive.name == "scan":
        _, n_consts, n_carry, _ = jaxprs.scan_parts(eqn)
        return inner.invars[n_consts : n_consts + n_carry]
    if eqn.primitive.name == "while":
        *_, n_consts = jaxprs.while_parts(eqn)
        return inner.invars[n_consts:]
    old = {v for v in replaced if v is not None}
    pairs = zip(inner.invars, eqn.invars, strict=False)
    return [own for own, v in pairs if not jaxprs.is_literal(v) and v in old]


def _given(inner: Jaxpr, common: Sequence[bool]) -> set[Any]:
    """The arguments of an inner function that are shared, as its caller's are.

    Functions and loops take the last of their equation's arguments; the condition of a
    loop, which computes next to nothing, others.
    """
    pairs = zip(reversed(inner.invars), reversed(common), strict=False)
    return {v for v, is_shared in pairs if is_shared}


def _bytes(variables: Iterable[Any]) -> int:
    return sum(
        math.prod(v.aval.shape) * v.aval.dtype.itemsize
        for v in variables
        if hasattr(v.aval, "shape")
    )


def _inner(params: Iterable[Any]) -> Iterable[Jaxpr]:
    for value in params:
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):  # one with constants, too
                yield item
