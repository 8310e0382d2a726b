"""Which values of a function are activations, and which weights are multiplied by them.

A bias of two dimensions is added to activations and is a table of numbers by nature; a
matrix that is masked before it is multiplied is one still. The difference is what it
meets: what comes from data, or weights and constants alone. So the function is walked
from its arguments to its results, and each variable gathers which leaves it is still
made of, and whether data are in it. Data that the function has closed over look like
constants, until a leaf is contracted with them or they look it up.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var

from eggroll.perturbation import jaxprs


# Operations whose result has an element for each of their operands', or of a number's.
ELEMENTWISE = frozenset(
    {"add", "add_any", "sub", "mul", "div", "rem", "max", "min", "pow", "atan2"}
    | {"select_n", "clamp", "complex", "eq", "ne", "lt", "le", "gt", "ge"}
)
_PRODUCTS = frozenset({"dot_general", "conv_general_dilated", "ragged_dot_general"})
_SOLVERS = frozenset({"triangular_solve", "custom_linear_solve", "linear_solve"})
_SUMS = frozenset({"reduce_sum", "reduce_max", "reduce_min", "reduce_prod"})

# The bits of what a variable is made of: data, random numbers, and each of the leaves.
_DATA, _DRAWN, _LEAF = 1, 2, 4


class Flow(NamedTuple):
    """Where data and leaves get to.

    Attributes:
        activations: the variables that data are in.
        varying: those that anything is in but constants.
        multiplied: the numbers of the arguments that are multiplied as matrices.
        along: of what has been spread over new dimensions, those it had before.
    """

    activations: frozenset[Var]
    varying: frozenset[Var]
    multiplied: frozenset[int]
    along: dict[Any, set[int]]

    def varies(self, atom: Any) -> bool:
        """Whether an operand of an equation may differ between members."""
        return not jaxprs.is_literal(atom) and atom in self.varying


def flow(closed: ClosedJaxpr, is_leaf: Sequence[bool], is_data: Sequence[bool]) -> Flow:
    """Follows data and leaves through a function.

    Args:
        closed: the function.
        is_leaf: which of its arguments are leaves.
        is_data: which are data; the rest are constants.
    """
    multiplied: set[int] = set()  # also by what a loop changes later
    walk = _Walk({}, {}, multiplied, {}, trial=_Walk({}, {}, multiplied, {}))
    origins = [
        _LEAF << k if leaf else _DATA * data
        for k, (leaf, data) in enumerate(zip(is_leaf, is_data, strict=True))
    ]
    walk(closed.jaxpr, origins)
    matrices = _any(multiplied)
    return Flow(
        frozenset(v for v, origin in walk.found.items() if origin & _DATA),
        frozenset(v for v, origin in walk.found.items() if origin),
        frozenset(k for k in range(len(is_leaf)) if matrices & (_LEAF << k)),
        walk.along,
    )


class _Walk(NamedTuple):
    """From what the arguments of a function are made of to what its results are.

    Attributes:
        found: what each variable is made of.
        known: the results of a function, by itself and what its arguments are made of.
        multiplied: what is multiplied, as often as there is a product.
        along: of what has been spread over new dimensions, those it had before.
        trial: another, to try out what loops do; None for the trial itself. They share
            what is multiplied: what is a state in the end may begin as a matrix.
    """

    found: dict[Var, int]
    known: dict[tuple[Jaxpr, tuple[int, ...]], list[int]]
    multiplied: set[int]
    along: dict[Any, set[int]]
    trial: "_Walk | None" = None

    def __call__(self, jaxpr: Jaxpr, given: Sequence[int]) -> list[int]:
        at = (jaxpr, tuple(given))
        if at not in self.known:
            self.known[at] = self._through(jaxpr, given)
        return self.known[at]

    def _through(self, jaxpr: Jaxpr, given: Sequence[int]) -> list[int]:
        origins: dict[Any, int] = dict(zip(jaxpr.invars, given, strict=True))
        read = lambda v: 0 if jaxprs.is_literal(v) else origins.get(v, 0)
        for eqn in jaxpr.eqns:
            after = self._after(eqn, [read(v) for v in eqn.invars])
            origins.update(zip(eqn.outvars, after, strict=True))
        for v, origin in origins.items():
            self.found[v] = self.found.get(v, 0) | origin
        return [read(v) for v in jaxpr.outvars]

    def _after(self, eqn: JaxprEqn, given: list[int]) -> list[int]:
        """What the results of an equation are made of."""
        if (inner := jaxprs.inlined(eqn)) is not None:
            return self(inner.jaxpr, given)
        if (nested := _NESTED.get(eqn.primitive.name)) is not None:
            return nested(eqn, given, self)
        if eqn.primitive.name == "broadcast_in_dim":
            self.along[eqn.outvars[0]] = _spread(eqn)
        origin = _any(given)
        is_trial = self.trial is None  # a state at first is no matrix among matrices
        if _multiplies(eqn, origin) and (origin & _DATA or not is_trial):
            self.multiplied.add(origin)
        return [_made_of(eqn, given)] * len(eqn.outvars)


def _spread(eqn: JaxprEqn) -> set[int]:
    """The dimensions of a broadcast's result that its operand had."""
    pairs = zip(eqn.params["broadcast_dimensions"], _shape(eqn.invars[0]), strict=True)
    return {int(d) for d, n in pairs if n != 1}


def _multiplies(eqn: JaxprEqn, origin: int) -> bool:
    """Whether an equation is a product with matrices, or may be.

    A sum over what leaves and data are in is a product that was written elementwise.
    Functions that are not known may be anything.
    """
    name = eqn.primitive.name
    if name in _SUMS:
        return origin & _DATA > 0
    is_call = any(isinstance(x, ClosedJaxpr | Jaxpr) for x in eqn.params.values())
    return name in _PRODUCTS | _SOLVERS or is_call or name.endswith("_call")


def _made_of(eqn: JaxprEqn, given: list[int]) -> int:
    name, origin = eqn.primitive.name, _any(given)
    if name.startswith("random_") or name == "threefry2x32":
        return _DRAWN if origin else 0  # a mask for a weight is no activation
    if name in _SUMS:
        return origin & _DATA | (_DRAWN if origin else 0)
    if origin >= _LEAF and not origin & _DATA and _makes_activations(eqn, given):
        return _DATA
    if name in _PRODUCTS | _SOLVERS and origin & _DATA:
        return _DATA
    if name in ELEMENTWISE | {"concatenate"} and _has_activation(eqn, given):
        return _any([x for x in given if x & _DATA])  # what is added to it goes with it
    return origin


def _makes_activations(eqn: JaxprEqn, given: list[int]) -> bool:
    """Whether one operand is made of leaves and the other seems to be data."""
    name = eqn.primitive.name
    if name == "gather":
        *positions, _ = _shape(eqn.invars[1])
        return not given[1] and math.prod(positions) > 1
    return name in _PRODUCTS and not all(given)


def _has_activation(eqn: JaxprEqn, given: list[int]) -> bool:
    """Whether an operand with data has all elements of the result (a part: its own)."""
    is_joined, shape = eqn.primitive.name == "concatenate", _shape(eqn.outvars[0])
    pairs = zip(given, eqn.invars, strict=True)
    return any(x & _DATA and (is_joined or _shape(v) == shape) for x, v in pairs)


def _scan(eqn: JaxprEqn, given: list[int], walk: _Walk) -> list[int]:
    body, n_consts, n_carry, _ = jaxprs.scan_parts(eqn)
    start, trial = n_consts + n_carry, walk.trial or walk
    around = lambda carry: [*given[:n_consts], *carry, *given[start:]]
    step = lambda carry: trial(body.jaxpr, around(carry))[:n_carry]
    carry = _settled(given[n_consts:start], step)
    return [*carry, *walk(body.jaxpr, around(carry))[n_carry:]]


def _while(eqn: JaxprEqn, given: list[int], walk: _Walk) -> list[int]:
    condition, body, n_cond, n_body = jaxprs.while_parts(eqn)
    consts, trial = given[n_cond : n_cond + n_body], walk.trial or walk
    step = lambda carry: trial(body.jaxpr, [*consts, *carry])
    carry = _settled(given[n_cond + n_body :], step)
    walk(body.jaxpr, [*consts, *carry])
    walk(condition.jaxpr, [*given[:n_cond], *carry])
    return carry


def _settled(carry: list[int], step: Callable[[list[int]], list[int]]) -> list[int]:
    """What a loop's carry is made of, once another turn changes it no more.

    What data get into is a state, whatever it was at first.
    """
    while True:
        new = _either(carry, step(carry))
        new = [_DATA if x & _DATA else x for x in new]
        if new == carry:
            return carry
        carry = new


def _cond(eqn: JaxprEqn, given: list[int], walk: _Walk) -> list[int]:
    index, *rest = given
    after = [walk(branch.jaxpr, rest) for branch in jaxprs.branches(eqn)]
    return [index & _DATA | way for way in _either(*after)]


def _shard_map(eqn: JaxprEqn, given: list[int], walk: _Walk) -> list[int]:
    return walk(jaxprs.shard_map_parts(eqn).body.jaxpr, given)


_NESTED = {"scan": _scan, "while": _while, "cond": _cond, "shard_map": _shard_map}


def _shape(v: Any) -> tuple[int, ...]:
    return getattr(v.aval, "shape", ())


def _any(origins: Sequence[int] | set[int]) -> int:
    return functools.reduce(operator.or_, origins, 0)


def _either(*origins: Sequence[int]) -> list[int]:
    return [_any(x) for x in zip(*origins, strict=True)]
