"""The JAX internals that the engine relies on, all of them, for every JAX it supports.

A jaxpr's equations are read in one place only, so that a change inside JAX is a change
to this file. Checked on JAX 0.10 (`num_consts`/`num_carry`, `ClosedJaxpr` parameters)
and on 0.12 (`ft_in`, plain `Jaxpr` parameters).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var


INLINED = {
    # primitive: the parameter that holds its function
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}


class Scan(NamedTuple):
    """A scan equation taken apart: its body, and how its operands divide."""

    body: ClosedJaxpr
    num_consts: int
    num_carry: int


def trace(function: Callable, *args: Any) -> tuple[ClosedJaxpr, Any]:
    """Returns the jaxpr of `function(*args)` and the tree structure of its result."""
    jaxpr, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    return jaxpr, jax.tree.structure(shape)


def close(jaxpr: Jaxpr | ClosedJaxpr) -> ClosedJaxpr:
    """Returns a jaxpr with its constants, whichever form an equation keeps it in."""
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


def rebind(eqn: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """Evaluates an equation, unchanged, on other operands."""
    bound = eqn.primitive.get_bind_params(eqn.params)
    subfunctions, params = bound if isinstance(bound, tuple) else ((), bound)
    out = eqn.primitive.bind(*subfunctions, *operands, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def inlined(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """Returns the function of an equation that merely calls it, else None."""
    param = INLINED.get(eqn.primitive.name)
    return None if param is None else close(eqn.params[param])


def scan_parts(eqn: JaxprEqn) -> Scan:
    """Takes a scan equation apart."""
    if "ft_in" in eqn.params:
        consts, carry, _ = eqn.params["ft_in"].unpack()
        sizes = len(consts), len(carry)
    else:
        sizes = eqn.params["num_consts"], eqn.params["num_carry"]
    return Scan(close(eqn.params["jaxpr"]), *sizes)


def manual_axes(eqn: JaxprEqn) -> Any:
    """The axes of the mesh that a `shard_map` equation takes over."""
    params = eqn.params
    return params.get("newly_manual_axes", params.get("manual_axes"))


def is_literal(atom: Any) -> bool:
    """Whether an operand of an equation is a constant written into the jaxpr."""
    return isinstance(atom, Literal)


def result_dtype(eqn: JaxprEqn) -> Any:
    """The type of an equation's only result."""
    return getattr(eqn.outvars[0].aval, "dtype")  # noqa: B009


def forwarded(jaxpr: Jaxpr) -> list[int | None]:
    """For each result of a jaxpr, which argument it is, unchanged; else None.

    Loops carry what they do not change (Flax carries whole modules): such a carry is a
    constant of the loop.
    """
    source = {var: i for i, var in enumerate(jaxpr.invars)}
    for eqn in jaxpr.eqns:
        call = inlined(eqn)
        if call is None:
            continue
        for out, origin in zip(eqn.outvars, forwarded(call.jaxpr), strict=True):
            given = None if origin is None else eqn.invars[origin]
            if isinstance(given, Var) and given in source:
                source[out] = source[given]
    return [source.get(v) if isinstance(v, Var) else None for v in jaxpr.outvars]
