"""The JAX internals that the engine relies on, for every JAX it supports.

How functions are nested in a jaxpr, and how an equation is evaluated again, differs
between versions: it is known here only, so that a change inside JAX is a change to this
file. (The parameters of `lax`'s operations, which are those of the functions that users
call, are read by the rules in `primitives`.) Checked on JAX 0.10 (`num_consts` and
`num_carry`, `ClosedJaxpr` parameters, `manual_axes`) and on 0.12 (`ft_in`, `Jaxpr`
parameters, `newly_manual_axes`).
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import source_info_util
from jax.extend.core import (
    ClosedJaxpr,
    Jaxpr,
    JaxprEqn,
    Literal,
    Var,
    jaxpr_as_fun,
)
from jax.interpreters import partial_eval
from jax.sharding import NamedSharding, PartitionSpec

from eggroll.perturbation import meshes


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
    "custom_vmap_call": "call",
    "composite": "jaxpr",
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
    lies = meshes.explicit(x)
    if lies is not None:  # what is stripped of an array are its leading dimensions
        lies = lies.update(spec=lies.spec[len(lies.spec) - len(shape) :])
    plain = jax.ShapeDtypeStruct(shape, dtype, weak_type=weak, sharding=lies)
    axes = meshes.varying(x) | {*axes}
    return jax.eval_shape(lambda x: meshes.vary(x, axes), plain) if axes else plain


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
    """A jaxpr with its constants, whichever form an equation keeps it in."""
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


def zeros(closed: ClosedJaxpr, start: int = 0) -> list[jax.Array]:
    """Stand-ins for the arguments of a jaxpr from number `start` on."""
    avals = [v.aval for v in closed.jaxpr.invars[start:]]
    return [jnp.zeros(x.shape, x.dtype, out_sharding=meshes.explicit(x)) for x in avals]


def as_traced(closed: ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
    """Makes arguments, perturbed or not, vary over the mesh axes they were traced for.

    A jaxpr names each place where a value begins to vary: it cannot be evaluated on
    others than it was traced for.
    """
    wanted = [meshes.varying(v.aval) for v in closed.jaxpr.invars]
    return [meshes.vary(x, axes) for x, axes in zip(args, wanted, strict=True)]


@contextlib.contextmanager
def context(eqn: JaxprEqn) -> Iterator[None]:
    """What an equation was written in, entered again, as JAX's own evaluation does it.

    That is its mesh, `jax.named_scope`, `compute_on` and metadata for XLA; and where in
    the user's code it stands, which an error in it then tells, too.
    """
    source, now = eqn.source_info, jax.sharding.get_abstract_mesh()
    names = source_info_util.current_name_stack() + source.name_stack
    mesh = meshes.as_taken(eqn.ctx.cur_abstract_mesh, now)
    with (
        source_info_util.user_context(source.traceback, name_stack=names),
        eqn.ctx.manager,
        jax.sharding.use_abstract_mesh(mesh),
    ):
        yield


def rebind(eqn: JaxprEqn, operands: Sequence[Any], **changed: Any) -> list[Any]:
    """Evaluates an equation on other operands, with some parameters changed."""
    given = {name: meshes.moved(value) for name, value in eqn.params.items()}
    bound = eqn.primitive.get_bind_params({**given, **changed})
    subfunctions, params = bound if isinstance(bound, tuple) else ((), bound)
    out = eqn.primitive.bind(*subfunctions, *operands, **params)
    return [*out] if eqn.primitive.multiple_results else [out]


def is_ours(eqn: JaxprEqn) -> bool:
    """Whether an equation needs its rule even where none of its operands is perturbed.

    A ragged product does: JAX has no rule for members that share the matrices.
    """
    return eqn.primitive.name == "ragged_dot_general" or is_moved(eqn)


def is_moved(eqn: JaxprEqn) -> bool:
    """Whether an equation holds a function traced for a mesh with axes now taken.

    The types in it name the mesh as it was: it has to be traced again.
    """
    traced = eqn.ctx.cur_abstract_mesh
    taken = {*jax.sharding.get_abstract_mesh().manual_axes} - {*traced.manual_axes}
    return bool(taken.intersection(traced.axis_names)) and (
        eqn.primitive.name in {*INLINED, "scan", "while", "cond", "shard_map"}
    )


def result_sharding(eqn: JaxprEqn) -> NamedSharding | None:
    """The sharding that an equation was asked for, on a mesh with explicit axes."""
    names = ("out_sharding", "sharding")
    asked = next((eqn.params[name] for name in names if name in eqn.params), None)
    return meshes.moved(asked)


def resharded(eqn: JaxprEqn, weight: Any, parts: Any) -> tuple[Any, Any]:
    """Evaluates a `reshard`; small parts (a pytree) go to its mesh, and stay whole."""
    mesh = meshes.moved(eqn.params["dst_sharding"]).mesh

    def whole(x: Any) -> Any:
        spec = PartitionSpec(*[None] * jnp.ndim(x))
        to = NamedSharding(mesh, spec)
        return rebind(eqn, [jnp.asarray(x)], dst_sharding=to)[0]

    return rebind(eqn, [weight])[0], jax.tree.map(whole, parts)


def inlined(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """Returns the function of an equation that merely calls it, else None."""
    param = INLINED.get(eqn.primitive.name)
    if param == "jaxpr" and param not in eqn.params:
        param = "call_jaxpr"  # of a composite, on JAX 0.12
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


def functions(eqn: JaxprEqn) -> list[Jaxpr]:
    """All functions that an equation holds, whatever for, without their constants."""
    found = jax.tree.leaves([*eqn.params.values()])
    closed = [x.jaxpr for x in found if isinstance(x, ClosedJaxpr)]
    return closed + [x for x in found if isinstance(x, Jaxpr)]


def is_literal(atom: Any) -> bool:
    """Whether an operand of an equation is a constant written into the jaxpr."""
    return isinstance(atom, Literal)


def is_reference(atom: Any) -> bool:
    """Whether an operand of an equation is memory that can be written to."""
    return hasattr(atom.aval, "inner_aval")


def result_dtype(eqn: JaxprEqn) -> Any:
    """The type of an equation's only result."""
    return getattr(eqn.outvars[0].aval, "dtype")  # noqa: B009


def result_shape(eqn: JaxprEqn) -> tuple[int, ...]:
    """The shape of an equation's only result."""
    return shape_of(eqn.outvars[0])


def shape_of(atom: Any) -> tuple[int, ...]:
    """The shape of an operand or a result."""
    return atom.aval.shape


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
