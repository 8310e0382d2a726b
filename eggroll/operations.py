"""The rules for operations on perturbed arrays: products, lookups, views, scalings.

What has no rule is written out: correct, dearer, and reported to the observer.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from eggroll import _jax, structure
from eggroll.interpreter import Interpreter, Rule, is_perturbed
from eggroll.lowrank import Perturbed, Shift, dot_general


def _dot_general(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    (contract, batch), params = eqn.params["dimension_numbers"], eqn.params
    if all(is_perturbed(x) for x in operands):
        # A row that was looked up meets a matrix: write out the row.
        cost = lambda x: (not x.is_thin, not x.looked_up, x.weight.size)
        other = min((0, 1), key=lambda i: cost(operands[i]))
        operands[other] = run.written_out(operands[other], "dot_general")
    side = 1 if is_perturbed(operands[1]) else 0
    leaf, x = operands[side], operands[1 - side]
    run.observe("batch", leaf, "dot_general", batch[side])
    run.observe("contract", leaf, "dot_general", contract[side])
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


def _conv(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    """Convolves: x * (W + Σ L_r R_r) = x * W + Σ (x * L_r) R_r, R by output feature."""
    image, leaf = operands
    params = eqn.params
    numbers: lax.ConvDimensionNumbers = params["dimension_numbers"]
    out_dim, *in_dims = numbers.rhs_spec
    grouped = params["feature_group_count"] > 1 or params["batch_group_count"] > 1
    if is_perturbed(image) or grouped:
        return None
    run.observe("contract", leaf, "conv_general_dilated", in_dims)
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


def _gather(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    leaf, indices = operands
    if not is_perturbed(leaf) or is_perturbed(indices):
        return None
    numbers = eqn.params["dimension_numbers"]
    run.observe("batch", leaf, "gather", numbers.operand_batching_dims)
    sizes = [
        n if d in numbers.start_index_map else leaf.shape[d]
        for d, n in enumerate(eqn.params["slice_sizes"])
    ]
    _observe_position("index", leaf, "gather", sizes, run)
    return structure.gather(leaf, indices, eqn.params)


def _dynamic_slice(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    leaf, *start = operands
    if not is_perturbed(leaf):
        return None
    sizes = eqn.params["slice_sizes"]
    _observe_position("index", leaf, "dynamic_slice", sizes, run)
    return structure.dynamic_slice(leaf, start, sizes)


def _slice(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Perturbed:
    (leaf,), params = operands, eqn.params
    start, limit = params["start_indices"], params["limit_indices"]
    sizes = [b - a for a, b in zip(start, limit, strict=True)]
    _observe_position("part", leaf, "slice", sizes, run)
    return structure.slice_(leaf, start, limit, params["strides"])


def _observe_position(
    event: str, leaf: Perturbed, primitive: str, sizes: Sequence[int], run: Interpreter
) -> None:
    one = [d for d, n in enumerate(sizes) if n == 1 < leaf.shape[d]]
    if one:
        run.observe(event, leaf, primitive, one)


def _view(apply: Callable[[JaxprEqn, list[Any]], Any]) -> Callable:
    """Makes a rule of an operation on the view of one perturbed operand, the first."""

    def rule(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
        leaf, *rest = operands
        if not is_perturbed(leaf) or any(is_perturbed(x) for x in rest):
            return None
        return apply(eqn, operands)

    return rule


def _convert(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    leaf, dtype = operands[0], eqn.params["new_dtype"]
    both_float = jnp.issubdtype(leaf.dtype, jnp.floating) and jnp.issubdtype(
        dtype, jnp.floating
    )
    return structure.convert(leaf, dtype) if both_float or leaf.dtype == dtype else None


def _scaled(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
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


def _negated(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    leaf = operands[0]
    if isinstance(leaf.scale, Shift):
        return None
    return structure.scaled(leaf, jnp.multiply, jnp.asarray(-1, leaf.dtype))


def _concatenate(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    if not all(is_perturbed(x) for x in operands):
        return None
    return structure.concatenate(operands, eqn.params["dimension"])


def _reshape(eqn: JaxprEqn, operands: list[Any]) -> Perturbed:
    leaf, order = operands[0], eqn.params["dimensions"]
    if order is not None:
        leaf = structure.transpose(leaf, order)
    return structure.reshape(leaf, eqn.params["new_sizes"])


def _split(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> list[Perturbed]:
    leaf, axis, start, parts = operands[0], eqn.params["axis"], 0, []
    if 1 in eqn.params["sizes"] and leaf.shape[axis] > 1:
        run.observe("part", leaf, "split", (axis,))
    for size in eqn.params["sizes"]:
        low = [start if d == axis else 0 for d in range(leaf.ndim)]
        high = [start + size if d == axis else n for d, n in enumerate(leaf.shape)]
        parts.append(structure.slice_(leaf, low, high, None))
        start += size
    return parts


def _stack(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    if not all(is_perturbed(x) for x in operands):
        return None
    return structure.stack(operands, eqn.params["axis"])


def _unstack(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> list[Perturbed]:
    leaf, axis = operands[0], eqn.params["axis"]
    if leaf.shape[axis] > 1:
        run.observe("part", leaf, "unstack", (axis,))
    low, high, parts = [0] * leaf.ndim, list(leaf.shape), []
    for i in range(leaf.shape[axis]):
        low[axis], high[axis] = i, i + 1
        part = structure.slice_(leaf, low, high, None)
        parts.append(structure.squeeze(part, (axis,)))
    return parts


def _barrier(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> list[Any]:
    return list(lax.optimization_barrier(operands))


def _weight_only(eqn: JaxprEqn, operands: list[Any]) -> Perturbed:
    """A constraint on how the weight is laid out; the factors are small."""
    leaf = operands[0]
    return leaf.replace(_jax.rebind(eqn, [leaf.weight])[0], leaf.factors)


RULES: dict[str, Rule] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _conv,
    "gather": _gather,
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
    "split": _split,
    "copy": _view(lambda e, x: x[0]),
    "copy_p": _view(lambda e, x: x[0]),
    "stop_gradient": _view(lambda e, x: x[0]),
    "sharding_constraint": _view(_weight_only),
}
