"""Runs any JAX function on perturbed arrays.

`perturbed(fn)` traces `fn` as if its perturbed arguments were ordinary arrays, then
evaluates the trace with a rule for each operation that can work with weight and factors
apart. Everything else materialises the array: correct, dearer, and reported to an
observer. The functions that JAX nests (jit, scan, while, cond, checkpoint, custom
derivatives) are entered.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from eggroll import _jax, structure
from eggroll.lowrank import Perturbed, Shift, dot_general


# Called as `observe(event, leaf, primitive, dims)` whenever a perturbed array is used.
# Events: "batch" (dims are taken apart: by a loop over layers, or as batch dimensions),
# "contract" (dims are summed over, or looked up), "index" and "part" (one position
# along dims is taken: one found at run time, or a fixed one), "materialise" (what is
# low-rank has to be written out).
Observer = Callable[[str, Perturbed, str, Sequence[int]], None]


def perturbed(fn: Callable, *, strict: bool = False) -> Callable:
    """Transforms a function of arrays so that it accepts perturbed arrays.

    Args:
        fn: any JAX function of pytrees of arrays.
        strict: refuse, rather than write out, a low-rank array that `fn` uses in a way
            for which there is no cheap rule.

    Returns:
        A function of the same arguments, any array of which may be a `Perturbed`. It
        returns what `fn` would return for the arrays they stand for, to rounding.

    Raises:
        ValueError: if `strict` and a low-rank array would have to be written out.
    """

    @functools.wraps(fn)
    def run(*args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args, is_leaf=is_perturbed)
        is_array = [is_perturbed(x) or _is_arraylike(x) for x in leaves]

        def flat(arrays: list[Any]) -> Any:
            given = iter(arrays)
            full = [
                next(given) if a else x for a, x in zip(is_array, leaves, strict=True)
            ]
            return fn(*jax.tree.unflatten(tree, full))

        arrays = [x for a, x in zip(is_array, leaves, strict=True) if a]
        jaxpr, out_tree = _jax.trace(flat, [_plain(x) for x in arrays])
        outs = evaluate(jaxpr, arrays, refuse if strict else ignore)
        return jax.tree.unflatten(out_tree, outs)

    return run


def evaluate(
    jaxpr: ClosedJaxpr, args: Sequence[Any], observe: Observer
) -> list[jax.Array]:
    """Evaluates a jaxpr with perturbed arguments; materialises its results."""
    outs = _evaluate(jaxpr, args, observe)
    return [_written_out(x, "result", observe) for x in outs]


def is_perturbed(x: Any) -> bool:
    """Whether `x` is a perturbed array (to be a leaf of a pytree as a whole)."""
    return isinstance(x, Perturbed)


def ignore(event: str, leaf: Perturbed, primitive: str, dims: Sequence[int]) -> None:
    """The observer that does nothing."""


def refuse(event: str, leaf: Perturbed, primitive: str, dims: Sequence[int]) -> None:
    """The observer that makes writing out a low-rank array an error."""
    if event == "materialise" and leaf.paths:
        raise ValueError(
            f"strict: `{primitive}` needs the low-rank leaf {', '.join(leaf.paths)} "
            f"of shape {leaf.shape} written out for every member; give it a rule "
            f"(full_rank() or frozen), or allow it with strict=False"
        )


def _is_arraylike(x: Any) -> bool:
    return isinstance(x, (jax.Array, jax.ShapeDtypeStruct)) or hasattr(x, "__array__")


def _plain(x: Any) -> Any:
    """The abstract array that `x` stands for."""
    if is_perturbed(x):
        x = x.weight
    dtype = jax.dtypes.canonicalize_dtype(x.dtype, allow_extended_dtype=True)
    return jax.ShapeDtypeStruct(x.shape, dtype)


def _evaluate(closed: ClosedJaxpr, args: Sequence[Any], observe: Observer) -> list[Any]:
    """Evaluates a jaxpr equation by equation; results may be perturbed arrays."""
    jaxpr, env = closed.jaxpr, {}

    def read(atom: Any) -> Any:
        return atom.val if _jax.is_literal(atom) else env[atom]

    env.update(zip(jaxpr.constvars, closed.consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        operands = [read(v) for v in eqn.invars]
        if any(is_perturbed(x) for x in operands):
            outs = _apply(eqn, operands, observe)
        else:
            outs = _jax.rebind(eqn, operands)
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _apply(eqn: JaxprEqn, operands: list[Any], observe: Observer) -> list[Any]:
    """Evaluates one equation, at least one of whose operands is perturbed."""
    if (inner := _jax.inlined(eqn)) is not None:
        return _evaluate(inner, operands, observe)
    rule = _RULES.get(eqn.primitive.name)
    outs = None if rule is None else rule(eqn, operands, observe)
    if outs is None:
        name = eqn.primitive.name
        return _jax.rebind(eqn, [_written_out(x, name, observe) for x in operands])
    return outs if isinstance(outs, list) else [outs]


def _written_out(x: Any, primitive: str, observe: Observer) -> Any:
    if not is_perturbed(x):
        return x
    if not x.is_thin:
        observe("materialise", x, primitive, range(x.ndim))
    return x.materialise()


# --- One rule an operation: `rule(eqn, operands, observe)` returns the result,
# perturbed or not (a list if the operation has several), or None to have it
# materialised.


def _dot_general(eqn: JaxprEqn, operands: list[Any], observe: Observer) -> Any:
    (contract, batch), params = eqn.params["dimension_numbers"], eqn.params
    if all(is_perturbed(x) for x in operands):
        # A row that was looked up meets a matrix: write out the row.
        by_size = lambda i: (bool(operands[i].paths), operands[i].weight.size)
        other = min((0, 1), key=by_size)
        operands[other] = _written_out(operands[other], "dot_general", observe)
    side = 1 if is_perturbed(operands[1]) else 0
    leaf, x = operands[side], operands[1 - side]
    observe("batch", leaf, "dot_general", batch[side])
    observe("contract", leaf, "dot_general", contract[side])
    dims = ((contract[1 - side], contract[side]), (batch[1 - side], batch[side]))
    dtype = _jax.result_dtype(eqn)
    precision = params["precision"]
    if side == 0 and isinstance(precision, tuple):
        precision = precision[::-1]
    out = dot_general(x, leaf, dims, precision=precision, dtype=dtype)
    if side == 1:
        return out
    n_batch = len(batch[0])
    n_x = x.ndim - n_batch - len(contract[1])
    order = [*range(n_batch), *range(n_batch + n_x, out.ndim)]
    return jnp.transpose(out, [*order, *range(n_batch, n_batch + n_x)])


def _conv(eqn: JaxprEqn, operands: list[Any], observe: Observer) -> Any:
    """Convolves: x * (W + Σ L_r R_r) = x * W + Σ (x * L_r) R_r, R by output feature."""
    image, leaf = operands
    params = eqn.params
    numbers: lax.ConvDimensionNumbers = params["dimension_numbers"]
    out_dim, *in_dims = numbers.rhs_spec
    grouped = params["feature_group_count"] > 1 or params["batch_group_count"] > 1
    if is_perturbed(image) or grouped:
        return None
    observe("contract", leaf, "conv_general_dilated", in_dims)
    ours = [f for f in leaf.factors if f.shape[out_dim] == 1]
    theirs = [f for f in leaf.factors if all(f.shape[d] == 1 for d in in_dims)]
    if len(leaf.factors) != 2 or len(ours) != 1 or len(theirs) != 1:
        return None
    accumulator = leaf.accumulator
    keep = {k: v for k, v in params.items() if k != "preferred_element_type"}
    conv = functools.partial(
        lax.conv_general_dilated_p.bind, preferred_element_type=accumulator, **keep
    )
    kernel = jnp.swapaxes(ours[0], out_dim, -1)[..., 0].astype(image.dtype)
    kernel = jnp.broadcast_to(
        kernel,
        [kernel.shape[d] if d == out_dim else n for d, n in enumerate(leaf.shape)],
    )
    thin = conv(image, kernel)
    feature = numbers.out_spec[1]
    right = jnp.reshape(theirs[0], (leaf.shape[out_dim], -1)).astype(accumulator)
    delta = jnp.moveaxis(jnp.moveaxis(thin, feature, -1) @ right.T, -1, feature)
    scale = leaf.scale
    is_shift = isinstance(scale, Shift)
    scaled = scale.shifted(scale.signed(delta)) if is_shift else delta * scale
    out = conv(image, leaf.weight) + scaled
    return out.astype(_jax.result_dtype(eqn))


def _gather(eqn: JaxprEqn, operands: list[Any], observe: Observer) -> Any:
    leaf, indices = operands
    if not is_perturbed(leaf) or is_perturbed(indices):
        return None
    numbers = eqn.params["dimension_numbers"]
    is_single = indices.ndim == 1
    observe("batch", leaf, "gather", numbers.operand_batching_dims)
    event = "index" if is_single else "contract"
    observe(event, leaf, "gather", numbers.start_index_map)
    out = structure.gather(leaf, indices, eqn.params)
    if not is_single:
        out.paths = ()  # rows that were looked up are activations
    return out


def _dynamic_slice(eqn: JaxprEqn, operands: list[Any], observe: Observer) -> Any:
    leaf, *start = operands
    if not is_perturbed(leaf):
        return None
    sizes = eqn.params["slice_sizes"]
    _observe_position("index", leaf, "dynamic_slice", sizes, observe)
    return structure.dynamic_slice(leaf, start, sizes)


def _slice(eqn: JaxprEqn, operands: list[Any], observe: Observer) -> Perturbed:
    (leaf,), params = operands, eqn.params
    start, limit = params["start_indices"], params["limit_indices"]
    sizes = [b - a for a, b in zip(start, limit, strict=True)]
    _observe_position("part", leaf, "slice", sizes, observe)
    return structure.slice_(leaf, start, limit, params["strides"])


def _observe_position(
    event: str, leaf: Perturbed, primitive: str, sizes: Sequence[int], observe: Observer
) -> None:
    one = [d for d, n in enumerate(sizes) if n == 1 < leaf.shape[d]]
    if one:
        observe(event, leaf, primitive, one)


def _scan(eqn: JaxprEqn, operands: list[Any], observe: Observer) -> list[Any]:
    params, (body, n_consts, n_carry) = eqn.params, _jax.scan_parts(eqn)
    forwarded = _jax.forwarded(body.jaxpr)
    consts, carry = operands[:n_consts], operands[n_consts : n_consts + n_carry]
    fixed, init = _split_carry(carry, forwarded, n_consts, observe)
    layers = [
        _Layers.of(x, observe) if is_perturbed(x) else x
        for x in operands[n_consts + n_carry :]
    ]

    def step(state: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        xs = [x.one() if isinstance(x, _Layers) else x for x in xs]
        outs = _evaluate(body, [*consts, *_join(fixed, state), *xs], observe)
        new = [_written_out(x, "scan", observe) for x in _varying(fixed, outs)]
        return new, [_written_out(x, "scan", observe) for x in outs[n_carry:]]

    state, ys = lax.scan(
        step,
        init,
        layers,
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*_join(fixed, state), *ys]


def _while(eqn: JaxprEqn, operands: list[Any], observe: Observer) -> list[Any]:
    params = eqn.params
    n_cond, n_body = params["cond_nconsts"], params["body_nconsts"]
    condition, body = _jax.close(params["cond_jaxpr"]), _jax.close(params["body_jaxpr"])
    cond_consts, body_consts = operands[:n_cond], operands[n_cond : n_cond + n_body]
    forwarded = _jax.forwarded(body.jaxpr)
    fixed, init = _split_carry(operands[n_cond + n_body :], forwarded, n_body, observe)

    def proceed(state: list[Any]) -> Any:
        return evaluate(condition, [*cond_consts, *_join(fixed, state)], observe)[0]

    def step(state: list[Any]) -> list[Any]:
        outs = _evaluate(body, [*body_consts, *_join(fixed, state)], observe)
        return [_written_out(x, "while", observe) for x in _varying(fixed, outs)]

    return _join(fixed, lax.while_loop(proceed, step, init))


def _cond(eqn: JaxprEqn, operands: list[Any], observe: Observer) -> list[Any]:
    index, *rest = operands

    def branch(jaxpr: ClosedJaxpr) -> Callable:
        return lambda: evaluate(jaxpr, rest, observe)

    return lax.switch(index, [branch(_jax.close(j)) for j in eqn.params["branches"]])


def _split_carry(
    carry: list[Any], forwarded: list[int | None], offset: int, observe: Observer
) -> tuple[list[Perturbed | None], list[Any]]:
    """Splits a loop's carry into what the loop leaves alone and what it changes."""
    fixed = [
        x if is_perturbed(x) and forwarded[i] == offset + i else None
        for i, x in enumerate(carry)
    ]
    init = [_written_out(x, "carry", observe) for x in _varying(fixed, carry)]
    return fixed, init


def _varying(fixed: list[Any], carry: list[Any]) -> list[Any]:
    pairs = zip(fixed, carry, strict=False)  # results that follow the carry are left
    return [x for f, x in pairs if f is None]


def _join(fixed: list[Any], state: Sequence[Any]) -> list[Any]:
    rest = iter(state)
    return [next(rest) if f is None else f for f in fixed]


@jax.tree_util.register_pytree_node_class
class _Layers:
    """A perturbed stack for a scan to take apart: the scale is shared, not scanned."""

    def __init__(self, arrays: Any, scale: Any, paths: tuple[str, ...]):
        self.arrays, self.scale, self.paths = arrays, scale, paths

    @classmethod
    def of(cls, leaf: Perturbed, observe: Observer) -> "_Layers":
        observe("batch", leaf, "scan", (0,))
        length = leaf.shape[0]
        factors = [jnp.broadcast_to(f, (length, *f.shape[1:])) for f in leaf.factors]
        return cls((leaf.weight, factors), _Closed(leaf.scale), leaf.paths)

    def one(self) -> Perturbed:
        weight, factors = self.arrays
        return Perturbed(weight, factors, self.scale.value, self.paths)

    def tree_flatten(self) -> tuple[tuple, tuple]:
        return (self.arrays,), (self.scale, self.paths)

    @classmethod
    def tree_unflatten(cls, static: tuple, children: tuple) -> "_Layers":
        return cls(children[0], *static)


class _Closed:
    """A value that rides in a pytree's static part, compared by identity."""

    def __init__(self, value: Any):
        self.value = value


def _view(apply: Callable[[JaxprEqn, list[Any]], Any]) -> Callable:
    """Makes a rule of an operation on the view of one perturbed operand, the first."""

    def rule(eqn: JaxprEqn, operands: list[Any], observe: Observer) -> Any:
        leaf, *rest = operands
        if not is_perturbed(leaf) or any(is_perturbed(x) for x in rest):
            return None
        return apply(eqn, operands)

    return rule


def _convert(eqn: JaxprEqn, operands: list[Any], observe: Observer) -> Any:
    leaf, dtype = operands[0], eqn.params["new_dtype"]
    both_float = jnp.issubdtype(leaf.dtype, jnp.floating) and jnp.issubdtype(
        dtype, jnp.floating
    )
    return structure.convert(leaf, dtype) if both_float or leaf.dtype == dtype else None


def _scaled(eqn: JaxprEqn, operands: list[Any], observe: Observer) -> Any:
    """Multiplication or division by a number."""
    leaf, number = operands
    is_product = eqn.primitive.name == "mul"
    if is_product and not is_perturbed(leaf):
        leaf, number = number, leaf
    if not is_perturbed(leaf) or is_perturbed(number) or jnp.ndim(number):
        return None
    if isinstance(leaf.scale, Shift):
        return None
    number = jnp.asarray(number, leaf.dtype)
    return structure.scaled(leaf, jnp.multiply if is_product else jnp.divide, number)


def _negated(eqn: JaxprEqn, operands: list[Any], observe: Observer) -> Any:
    leaf = operands[0]
    if isinstance(leaf.scale, Shift):
        return None
    return structure.scaled(leaf, jnp.multiply, jnp.asarray(-1, leaf.dtype))


def _concatenate(eqn: JaxprEqn, operands: list[Any], observe: Observer) -> Any:
    if not all(is_perturbed(x) for x in operands):
        return None
    return structure.concatenate(operands, eqn.params["dimension"])


def _reshape(eqn: JaxprEqn, operands: list[Any]) -> Perturbed:
    leaf, order = operands[0], eqn.params["dimensions"]
    if order is not None:
        leaf = structure.transpose(leaf, order)
    return structure.reshape(leaf, eqn.params["new_sizes"])


def _split(eqn: JaxprEqn, operands: list[Any]) -> list[Perturbed]:
    leaf, axis, start, parts = operands[0], eqn.params["axis"], 0, []
    for size in eqn.params["sizes"]:
        low = [start if d == axis else 0 for d in range(leaf.ndim)]
        high = [start + size if d == axis else n for d, n in enumerate(leaf.shape)]
        parts.append(structure.slice_(leaf, low, high, None))
        start += size
    return parts


def _stack(eqn: JaxprEqn, operands: list[Any], observe: Observer) -> Any:
    if not all(is_perturbed(x) for x in operands):
        return None
    return structure.stack(operands, eqn.params["axis"])


def _unstack(eqn: JaxprEqn, operands: list[Any], observe: Observer) -> list[Perturbed]:
    leaf, axis = operands[0], eqn.params["axis"]
    if leaf.shape[axis] > 1:
        observe("part", leaf, "unstack", (axis,))
    low, high, parts = [0] * leaf.ndim, list(leaf.shape), []
    for i in range(leaf.shape[axis]):
        low[axis], high[axis] = i, i + 1
        part = structure.slice_(leaf, low, high, None)
        parts.append(structure.squeeze(part, (axis,)))
    return parts


def _barrier(eqn: JaxprEqn, operands: list[Any], observe: Observer) -> list[Any]:
    return list(lax.optimization_barrier(operands))


def _weight_only(eqn: JaxprEqn, operands: list[Any]) -> Perturbed:
    """A constraint on how the weight is laid out; the factors are small."""
    leaf = operands[0]
    return leaf.replace(_jax.rebind(eqn, [leaf.weight])[0], leaf.factors)


_RULES: dict[str, Callable] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _conv,
    "gather": _gather,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "convert_element_type": _convert,
    "mul": _scaled,
    "div": _scaled,
    "neg": _negated,
    "concatenate": _concatenate,
    "stack": _stack,
    "unstack": _unstack,
    "optimization_barrier": _barrier,
    "transpose": _view(lambda e, x: structure.transpose(x[0], e.params["permutation"])),
    "reshape": _view(_reshape),
    "rev": _view(lambda e, x: structure.rev(x[0], e.params["dimensions"])),
    "tile": _view(lambda e, x: structure.tile(x[0], e.params["reps"])),
    "squeeze": _view(lambda e, x: structure.squeeze(x[0], e.params["dimensions"])),
    "broadcast_in_dim": _view(
        lambda e, x: structure.broadcast_in_dim(
            x[0], e.params["shape"], e.params["broadcast_dimensions"]
        )
    ),
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "split": _view(_split),
    "copy": _view(lambda e, x: x[0]),
    "copy_p": _view(lambda e, x: x[0]),
    "stop_gradient": _view(lambda e, x: x[0]),
    "sharding_constraint": _view(_weight_only),
}
