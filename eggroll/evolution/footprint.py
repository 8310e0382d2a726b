"""How many bytes a program takes at its peak, told from its trace.

XLA decides what is kept in memory when it compiles; what it decides follows a few rules
in all but the details: chains of elementwise operations become one kernel and keep
nothing between, a result is written over an operand of its size that is not needed any
more, loops overwrite their state. The walk here knows these rules and no more. It takes
milliseconds where compiling takes seconds, and is right to about a quarter
(tests/evolution/test_footprint.py holds it against the compiled programs).
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from eggroll.evolution import buffers
from eggroll.evolution.buffers import ELEMENTWISE, Op, bytes_of
from eggroll.perturbation import jaxprs


# Operations that write into an operand, if nobody needs it any more.
IN_PLACE = {*("scatter", "scatter-add"), *ELEMENTWISE}


class Footprint(NamedTuple):
    """Bytes that a program takes.

    Attributes:
        arguments: of what it is given.
        results: of what it returns, where that is not written over arguments.
        temporaries: the most that is alive at once between them.
    """

    arguments: int
    results: int
    temporaries: int

    @property
    def peak(self) -> int:
        """Bytes in all."""
        return sum(self)


def footprint(closed: ClosedJaxpr, donated: int = 0) -> Footprint:
    """Tells what a traced program takes.

    Args:
        closed: the program.
        donated: how many of its first arguments it may write its results over.
    """
    arguments, results = closed.jaxpr.invars, closed.jaxpr.outvars
    kind = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)  # wherever it lies
    kinds = lambda variables: collections.Counter(kind(v.aval) for v in variables)
    over = kinds(arguments[:donated]) & kinds(results)
    sizes = lambda kinds: sum(map(bytes_of, kinds))
    return Footprint(
        arguments=sizes(v.aval for v in arguments),
        results=sizes(v.aval for v in results) - sizes(over.elements()),
        temporaries=peak(closed.jaxpr, counts_results=False),
    )


def peak(
    jaxpr: Jaxpr,
    *,
    reusable: Iterable[int] = (),
    shared: Iterable[int] = (),
    counts_results: bool = True,
    extra: Callable[[JaxprEqn, Sequence[bool]], int] = lambda eqn, shared: 0,
) -> int:
    """The most bytes alive at once beside the arguments.

    Args:
        jaxpr: what is computed.
        reusable: the positions of arguments that it may write over, as a loop its
            state; what takes their place does not count.
        shared: those of arguments that others have, too: their views do not count.
        counts_results: whether what is returned does.
        extra: bytes that an operation takes on top, for a while; it is told which of
            its operands are shared.
    """
    program = buffers.of(jaxpr)
    kept = buffers.kept(program, {program.arguments[i] for i in shared})
    sizes = [*program.sizes]
    for value in () if counts_results else program.results:
        sizes[value] = 0
    last = {b: at for at, (_, reads) in enumerate(kept.steps) for b in reads}
    last |= {b: len(kept.steps) for v in program.results for b in kept.of[v]}
    free = {program.arguments[i] for i in reusable}
    alive, now, most = {}, 0, 0
    for at, (op, reads) in enumerate(kept.steps):
        dying = [b for b in reads if last[b] == at and (b in alive or b in free)]
        for value, old in _replaced(op, dying, kept.of, program.sizes):
            now -= alive.pop(old, 0)
            if old in free:
                free.add(value)
        for value in op.writes:
            alive[value] = 0 if value in free else sizes[value]
            now += alive[value]
        common = [v in kept.shared for v in op.reads]
        inner = _inner_peak(op, common, extra) + extra(op.eqn, common)
        most = max(most, now + inner)
        now -= sum(
            alive.pop(b, 0) for b in (*reads, *op.writes) if last.get(b, at) <= at
        )
    return most


def _replaced(
    op: Op, dying: list[int], of: Mapping[int, set[int]], sizes: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """The values that are written over others, which are not needed any more.

    Args:
        op: writes them.
        dying: what it reads last; what is written over is taken from the list.
        of: for each value, what of it is in memory.
        sizes: of all values.
    """
    places = zip(op.writes, _places(op, dying, of), strict=False)
    for value, candidates in places:
        for old in candidates:
            if old in dying and sizes[old] == sizes[value]:
                dying.remove(old)
                yield value, old
                break


def _places(
    op: Op, dying: Iterable[int], of: Mapping[int, set[int]]
) -> list[Iterable[int]]:
    """For each result of an operation, over what it might be written."""
    if op.name in IN_PLACE:
        return [[*dying]] * len(op.writes)
    states: Sequence[int | None] = ()
    if op.name == "scan":
        _, start, count, _ = jaxprs.scan_parts(op.eqn)
        states = op.reads[start : start + count]
    elif op.name == "while":
        *_, n_condition, n_body = jaxprs.while_parts(op.eqn)
        states = op.reads[n_condition + n_body :]
    return [() if v is None else of[v] for v in states]


def _inner_peak(op: Op, shared: Sequence[bool], extra: Callable) -> int:
    """The most bytes that the functions of an operation take."""

    def of(inner: Jaxpr, skipped: int = 0, **how: Any) -> int:
        common = [i for i, is_shared in enumerate(shared[skipped:]) if is_shared]
        return peak(inner, shared=common, extra=extra, **how)

    if op.name == "scan":
        body, start, count, _ = jaxprs.scan_parts(op.eqn)
        return of(body.jaxpr, reusable=range(start, start + count))
    if op.name == "while":
        _, body, n_condition, n_body = jaxprs.while_parts(op.eqn)
        states = range(n_body, len(body.jaxpr.invars))
        return of(body.jaxpr, n_condition, reusable=states)
    if op.name == "cond":
        each = jaxprs.branches(op.eqn)
        return max(of(branch.jaxpr, 1, counts_results=False) for branch in each)
    if op.name == "shard_map":
        body = jaxprs.shard_map_parts(op.eqn).body
        return of(body.jaxpr, counts_results=False)
    return max(map(of, jaxprs.functions(op.eqn)), default=0)
