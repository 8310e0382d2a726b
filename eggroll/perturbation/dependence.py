"""How the arguments of a function reach its results: not at all, freely, or stopped.

`jax.lax.stop_gradient` says that what is before it is not to be learnt from what comes
after. A derivative obeys by itself; an evolution strategy, which evaluates a function
and never looks inside, has to be told which parameters are cut off.

The jaxpr is walked from its results back to its arguments; each variable gathers the
ways by which it reaches a result. What is not known to be a cut is none, so that a
parameter is called stopped or unused only where it is.
"""

import enum
import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from eggroll.perturbation import jaxprs


class Reach(enum.Flag):
    """The ways by which an argument reaches the results."""

    NONE = 0
    FREE = 1
    STOPPED = 2  # through `stop_gradient`, somewhere on the way
    BOTH = 3


# Beside these, in the walk: through a stopped maximum. A softmax subtracts one so that
# nothing overflows, which changes no result: it counts where there is no other way.
_MAXIMUM = 4
# What a stopped maximum may pass through on its way to the stop.
_ALIKE = {
    "broadcast_in_dim",
    "convert_element_type",
    "max",
    "pmax",
    "reshape",
    "select_n",
    "squeeze",
}

# A walk of an inner function: from how its results reach to how its arguments do.
_Walk = Callable[[Jaxpr, Sequence[int]], list[int]]


def reaches(closed: ClosedJaxpr) -> list[Reach]:
    """Returns how each argument of a jaxpr reaches its results.

    Functions within it (loops, branches, calls, shards) are entered; of one that is not
    known, each argument is taken to reach each result.
    """
    known: dict[tuple[Jaxpr, tuple[int, ...]], list[int]] = {}

    def walk(jaxpr: Jaxpr, outs: Sequence[int]) -> list[int]:
        at = (jaxpr, tuple(outs))
        if at not in known:
            known[at] = _walk(jaxpr, outs, walk)
        return known[at]

    def named(ways: int) -> Reach:
        if ways & _MAXIMUM and not ways & Reach.FREE.value:
            ways |= Reach.STOPPED.value
        return Reach(ways & Reach.BOTH.value)

    jaxpr = closed.jaxpr
    return [named(x) for x in walk(jaxpr, [Reach.FREE.value] * len(jaxpr.outvars))]


def _walk(jaxpr: Jaxpr, outs: Sequence[int], walk: _Walk) -> list[int]:
    """How the arguments of a jaxpr reach what its results, as given, reach."""
    ways: dict[Any, int] = {}

    def add(variables: Iterable[Any], more: Iterable[int]) -> None:
        for v, way in zip(variables, more, strict=True):
            if not jaxprs.is_literal(v):
                ways[v] = ways.get(v, 0) | way

    add(jaxpr.outvars, outs)
    made_by = {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}
    for eqn in reversed(jaxpr.eqns):
        after = [ways.get(v, 0) for v in eqn.outvars]
        if any(map(jaxprs.is_reference, (*eqn.invars, *eqn.outvars))):
            # What is written to memory may be read by anything.
            add(eqn.invars, [Reach.FREE.value] * len(eqn.invars))
        elif any(after):
            add(eqn.invars, _before(eqn, after, made_by, walk))
    return [ways.get(v, 0) for v in jaxpr.invars]


def _before(
    eqn: JaxprEqn, after: list[int], made_by: dict[Any, JaxprEqn], walk: _Walk
) -> list[int]:
    """How the operands of an equation reach what its results do."""
    name = eqn.primitive.name
    if name == "stop_gradient":
        is_maximum = _is_maximum(eqn.invars[0], made_by)
        return [_MAXIMUM if is_maximum else Reach.STOPPED.value]
    if (inner := jaxprs.inlined(eqn)) is not None:
        return walk(inner.jaxpr, after)
    if name in _NESTED:
        return _NESTED[name](eqn, after, walk)
    return [_any(after)] * len(eqn.invars)


def _scan(eqn: JaxprEqn, after: list[int], walk: _Walk) -> list[int]:
    body, n_consts, n_carry, options = jaxprs.scan_parts(eqn)
    start = n_consts + n_carry
    carry, stacked = after[:n_carry], after[n_carry:]
    if not options["length"]:
        return [*[0] * n_consts, *carry, *[0] * (len(eqn.invars) - start)]
    while True:  # what one turn hands on, the next one uses
        before = walk(body.jaxpr, [*carry, *stacked])
        new = _either(carry, before[n_consts:start])
        if new == carry:
            return before
        carry = new


def _while(eqn: JaxprEqn, after: list[int], walk: _Walk) -> list[int]:
    condition, body, n_cond, n_body = jaxprs.while_parts(eqn)
    carry = after
    while True:  # it may end before its first turn
        before = walk(body.jaxpr, carry)
        asked = walk(condition.jaxpr, [_any(carry)])
        new = _either(carry, before[n_body:], asked[n_cond:])
        if new == carry:
            return [*asked[:n_cond], *before[:n_body], *carry]
        carry = new


def _cond(eqn: JaxprEqn, after: list[int], walk: _Walk) -> list[int]:
    chosen = [walk(branch.jaxpr, after) for branch in jaxprs.branches(eqn)]
    return [_any(after), *_either(*chosen)]


def _shard_map(eqn: JaxprEqn, after: list[int], walk: _Walk) -> list[int]:
    return walk(jaxprs.shard_map_parts(eqn).body.jaxpr, after)


_NESTED = {"scan": _scan, "while": _while, "cond": _cond, "shard_map": _shard_map}


def _any(ways: Iterable[int]) -> int:
    return functools.reduce(operator.or_, ways, 0)


def _either(*ways: Sequence[int]) -> list[int]:
    return [_any(x) for x in zip(*ways, strict=True)]


def _is_maximum(variable: Any, made_by: dict[Any, JaxprEqn]) -> bool:
    """Whether a variable is a maximum, if of another shape or with gaps filled."""
    eqn = None if jaxprs.is_literal(variable) else made_by.get(variable)
    if eqn is None:
        return False
    if eqn.primitive.name in ("reduce_max", "cummax"):
        return True
    return eqn.primitive.name in _ALIKE and any(
        _is_maximum(v, made_by) for v in eqn.invars
    )
