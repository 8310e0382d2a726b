"""The JAX internals that the engine relies on, for every JAX it supports.

How functions are nested in a jaxpr, and how an equation is evaluated again, differs
between versions: it is known here only, so that a change inside JAX is a change to this
file. (The parameters of `lax`'s operations, which are those of the functions that users
call, are read by the rules in `primitives`.) Checked on JAX 0.10 (`num_consts` and
`num_carry`, `ClosedJaxpr` parameters, `manual_axes`) and on 0.12 (`ft_in`, `Jaxpr`
parameters, `newly_manual_axes`).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import (
    ClosedJaxpr,
    Jaxpr,
    JaxprEqn,
    Literal,
    Var,
    jaxpr_as_fun,
)
from jax.interpreters import partial_eval


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
    """A scan equation: its body, how its operands divide, and how it is to run."""

    body: ClosedJaxpr
    num_consts: int
    num_carry: int
    options: dict[str, Any]


class While(NamedTuple):
    """A while equation: its two functions, and how many constants each has."""

    condition: ClosedJaxpr
    body: ClosedJaxpr
    num_condition: int
    num_body: int


class ShardMap(NamedTuple):
    """A shard_map equation: its body, specifications, and the options of the call."""

    body: ClosedJaxpr
    in_specs: Sequence[Any]
    out_specs: Sequence[Any]
    options: dict[str, Any]


def trace(function: Callable, *args: Any) -> tuple[ClosedJaxpr, Any]:
    """Returns the jaxpr of `function(*args)` and the tree structure of its result."""
    jaxpr, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    return jaxpr, jax.tree.structure(shape)


def abstract(x: Any, shape: Sequence[int], axes: Iterable[str] = ()) -> Any:
    """What the trace of a function knows of an array.

    Args:
        x: the array.
        shape: of what is traced for it.
        axes: mesh axes over which it varies, beside its own.
    """
    dtype = jax.dtypes.canonicalize_dtype(x.dtype, allow_extended_dtype=True)
    weak = getattr(x, "weak_type", False)
    plain = jax.ShapeDtypeStruct(shape, dtype, weak_type=weak)
    axes = varying(x) | {*axes}
    return jax.eval_shape(lambda x: vary(x, axes), plain) if axes else plain


def first_result(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Returns a jaxpr of the same arguments, with what its first result needs alone."""
    used = [i == 0 for i in range(len(closed.jaxpr.outvars))]
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, used, instantiate=True)
    return ClosedJaxpr(jaxpr, closed.consts)


def run(closed: ClosedJaxpr, args: Sequence[Any]) -> list[jax.Array]:
    """Returns the results of a jaxpr on arrays."""
    results = jaxpr_as_fun(closed)(*as_traced(closed, args))
    return [x if isinstance(x, jax.Array) else jnp.asarray(x) for x in results]


def has_ordered_effects(closed: ClosedJaxpr) -> bool:
    """Whether a function has side effects that must happen in their order."""
    return any("Ordered" in type(effect).__name__ for effect in closed.effects)


def close(jaxpr: Jaxpr | ClosedJaxpr) -> ClosedJaxpr:
    """Returns a jaxpr with its constants, whichever form an equation keeps it in."""
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


def zeros(closed: ClosedJaxpr, start: int) -> list[jax.Array]:
    """Stand-ins for the arguments of a jaxpr from number `start` on."""
    rest = closed.jaxpr.invars[start:]
    return [jnp.zeros(v.aval.shape, v.aval.dtype) for v in rest]


def varying(tree: Any) -> frozenset[str]:
    """The mesh axes over which any array of a pytree varies.

    Within `jax.shard_map`, an array's type says along which axes of the mesh its value
    may differ between devices; elsewhere there are none.
    """
    leaves = jax.tree.leaves(tree)
    types = [jax.typeof(x) if isinstance(x, jax.Array) else x for x in leaves]
    known = [getattr(x, "manual_axis_type", None) for x in types]
    return frozenset().union(*(x.varying for x in known if x is not None))


def vary(x: Any, axes: Iterable[str]) -> Any:
    """Makes all arrays of a pytree vary over some mesh axes; values are the same."""

    def one(x: Any) -> Any:
        missing = tuple(sorted({*axes} - varying(x)))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(one, x)


def as_traced(closed: ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
    """Makes arguments, perturbed or not, vary over the mesh axes they were traced for.

    A jaxpr names each place where a value begins to vary: it cannot be evaluated on
    others than it was traced for.
    """
    wanted = [varying(v.aval) for v in closed.jaxpr.invars]
    return [vary(x, axes) for x, axes in zip(args, wanted, strict=True)]


def barrier(tree: Any) -> Any:
    """An optimization barrier, behind which arrays vary over the axes they did before.

    (JAX 0.10 lets arrays of one kind alone through a barrier.)
    """
    leaves, structure = jax.tree.flatten(tree)
    kinds = [varying(x) for x in leaves]
    for kind in {*kinds}:
        at = [i for i, k in enumerate(kinds) if k == kind]
        passed = lax.optimization_barrier([leaves[i] for i in at])
        for i, x in zip(at, passed, strict=True):
            leaves[i] = x
    return jax.tree.unflatten(structure, leaves)


def rebind(eqn: JaxprEqn, operands: Sequence[Any], **changed: Any) -> list[Any]:
    """Evaluates an equation on other operands, with some parameters changed."""
    bound = eqn.primitive.get_bind_params({**eqn.params, **changed})
    subfunctions, params = bound if isinstance(bound, tuple) else ((), bound)
    out = eqn.primitive.bind(*subfunctions, *operands, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def inlined(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """Returns the function of an equation that merely calls it, else None."""
    param = INLINED.get(eqn.primitive.name)
    return None if param is None else close(eqn.params[param])


def scan_parts(eqn: JaxprEqn) -> Scan:
    """Takes a scan equation apart."""
    params = eqn.params
    if "ft_in" in params:
        consts, carry, _ = params["ft_in"].unpack()
        sizes = len(consts), len(carry)
    else:
        sizes = params["num_consts"], params["num_carry"]
    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    return Scan(close(params["jaxpr"]), *sizes, options)


def while_parts(eqn: JaxprEqn) -> While:
    """Takes a while equation apart."""
    params = eqn.params
    return While(
        close(params["cond_jaxpr"]),
        close(params["body_jaxpr"]),
        params["cond_nconsts"],
        params["body_nconsts"],
    )


def branches(eqn: JaxprEqn) -> list[ClosedJaxpr]:
    """The functions among which a cond equation chooses."""
    return [close(branch) for branch in eqn.params["branches"]]


def shard_map_parts(eqn: JaxprEqn) -> ShardMap:
    """Takes a shard_map equation apart."""
    params = eqn.params
    manual = params.get("newly_manual_axes", params.get("manual_axes"))
    options = {
        "mesh": params["mesh"],
        "axis_names": manual,
        "check_vma": params["check_vma"],
    }
    body = close(params["jaxpr"])
    return ShardMap(body, params["in_specs"], params["out_specs"], options)


def is_literal(atom: Any) -> bool:
    """Whether an operand of an equation is a constant written into the jaxpr."""
    return isinstance(atom, Literal)


def is_reference(atom: Any) -> bool:
    """Whether an operand of an equation is memory that can be written to."""
    return hasattr(atom.aval, "inner_aval")


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
