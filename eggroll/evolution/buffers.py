"""What a traced program keeps in memory: the results that no kernel takes with it.

Elementwise operations are computed within the kernel that needs them, and views are
their operands; what is left is written down.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jax.extend.core import Jaxpr, JaxprEqn

from eggroll.perturbation import jaxprs


# Operations that are computed within the kernel that needs them.
ELEMENTWISE = {
    *("abs", "add", "add_any", "and", "atan2", "cbrt", "ceil", "clamp", "cos", "div"),
    *("eq", "erf", "erf_inv", "exp", "exp2", "expm1", "floor", "ge", "gt", "imag"),
    *("integer_pow", "is_finite", "le", "log", "log1p", "logistic", "lt", "max", "min"),
    *("mul", "ne", "neg", "nextafter", "not", "or", "population_count", "pow", "real"),
    *("rem", "round", "rsqrt", "select_n", "shift_left", "shift_right_arithmetic"),
    *("shift_right_logical", "sign", "sin", "sqrt", "square", "sub", "tan", "tanh"),
    *("xor", "convert_element_type", "broadcast_in_dim", "concatenate", "gather"),
    *("dynamic_slice", "dynamic_update_slice", "iota", "pad", "rev", "slice"),
    *("transpose",),
}

# Those whose result is their operand, seen otherwise.
VIEWS = {
    *("bitcast_convert_type", "copy", "random_unwrap", "random_wrap"),
    *("reshape", "squeeze", "stop_gradient", "name"),
}

# Those that a kernel may end in, beside these, if there are few terms.
SUMS = {f"reduce_{kind}" for kind in ("sum", "max", "min", "prod", "and", "or")}
MOST_TERMS = 32

# Those of whose result all have the operands in common, where they have these: views,
# sums and products of nothing but weights.
SHARED = {
    *("transpose", "reshape", "squeeze", "slice", "convert_element_type", "copy"),
    *("add", "add_any", "sub", "neg", "concatenate", "dot_general", "name"),
}


class Op(NamedTuple):
    """An operation on numbered values; literals are None."""

    eqn: JaxprEqn
    name: str
    reads: tuple[int | None, ...]
    writes: tuple[int, ...]


class Program(NamedTuple):
    """A jaxpr whose calls are written out.

    Attributes:
        ops: in their order; what nobody reads is left out.
        sizes: bytes of each value.
        arguments: their numbers.
        results: theirs.
    """

    ops: Sequence[Op]
    sizes: Sequence[int]
    arguments: Sequence[int]
    results: Sequence[int]


class Kept(NamedTuple):
    """What a program keeps in memory.

    Attributes:
        steps: the operations that write something there, with what they read.
        of: for each value, the values in memory that it is made from where it is used.
        shared: the values of which nothing counts.
    """

    steps: Sequence[tuple[Op, set[int]]]
    of: Mapping[int, set[int]]
    shared: set[int | None]


def of(jaxpr: Jaxpr) -> Program:
    """Writes out the calls of a jaxpr."""
    sizes: list[int] = []
    ops: list[Op] = []

    def new(variables: Iterable[Any]) -> list[int]:
        start = len(sizes)
        sizes.extend(bytes_of(v.aval) for v in variables)
        return [*range(start, len(sizes))]

    def write_out(jaxpr: Jaxpr, given: Sequence[int | None]) -> list[int | None]:
        number = dict(zip(jaxpr.invars, given, strict=True))
        number |= dict(zip(jaxpr.constvars, new(jaxpr.constvars), strict=True))
        value = lambda v: None if jaxprs.is_literal(v) else number[v]
        for eqn in jaxpr.eqns:
            reads, call = [value(v) for v in eqn.invars], jaxprs.inlined(eqn)
            if call is not None:
                results = write_out(call.jaxpr, reads)
            else:
                results = new(eqn.outvars)
                ops.append(Op(eqn, _name(eqn), tuple(reads), tuple(results)))
            number |= dict(zip(eqn.outvars, results, strict=True))
        return [value(v) for v in jaxpr.outvars]

    arguments = new(jaxpr.invars)
    results = [v for v in write_out(jaxpr, arguments) if v is not None]
    return Program(_needed(ops, results), sizes, arguments, results)


def _name(eqn: JaxprEqn) -> str:
    """What an operation is; a sum over dimensions of size 1 is none."""
    name = eqn.primitive.name
    if name in SUMS:
        shape = jaxprs.shape_of(eqn.invars[0])
        return name if any(shape[i] != 1 for i in eqn.params["axes"]) else "reshape"
    return name


def _needed(ops: Sequence[Op], results: Iterable[int]) -> list[Op]:
    """Leaves out what nobody reads."""
    read: set[int | None] = {*results}
    kept = []
    for op in reversed(ops):
        if op.eqn.effects or not read.isdisjoint(op.writes):
            kept.append(op)
            read.update(op.reads)
    return kept[::-1]


def kept(program: Program, shared: set[int | None]) -> Kept:
    """Tells what a program keeps; `shared`: values of which nothing counts."""
    within, steps = _within(program), []
    of = {v: {v} for v in range(len(program.sizes))}
    of |= {v: set() for v in shared if v is not None}
    inside: set[int | None] = set()  # values that are nowhere in memory
    for op in program.ops:
        reads = set().union(*(of[v] for v in op.reads if v is not None))
        if shared and op.name in SHARED and all(v in shared for v in op.reads):
            shared.update(op.writes)
            of |= {v: set() for v in op.writes}
        elif op.name == "optimization_barrier":
            pairs = zip(op.writes, op.reads, strict=True)
            of |= {v: set() if old is None else of[old] for v, old in pairs}
        elif op.name in VIEWS and op.reads[0] not in inside:
            of[op.writes[0]] = reads
        elif op.writes and op.writes[0] in within:
            of[op.writes[0]] = reads
            inside.update(op.writes)
        else:
            steps.append((op, reads))
    return Kept(steps, of, shared)


def _within(program: Program) -> set[int]:
    """The values that are computed where they are used, and never written down."""
    users: dict[int | None, list[Op]] = {}
    for op in program.ops:
        for v in op.reads:
            users.setdefault(v, []).append(op)
    kernel = {*ELEMENTWISE, *VIEWS}
    return {
        op.writes[0]
        for op in program.ops
        if op.name in kernel
        and op.writes[0] not in program.results
        and all(
            user.name in kernel or _ends_kernel(user)
            for user in users.get(op.writes[0], ())
        )
    }


def _ends_kernel(op: Op) -> bool:
    """Whether it sums up what a kernel computes; long sums are split in two kernels."""
    if op.name not in SUMS:
        return False
    shape = jaxprs.shape_of(op.eqn.invars[0])
    return all(shape[i] <= MOST_TERMS for i in op.eqn.params["axes"])


def bytes_of(kind: Any) -> int:
    """Bytes of an array, of which a jaxpr knows shape and type."""
    if not hasattr(kind, "shape"):
        return 0
    return math.prod(kind.shape) * kind.dtype.itemsize
