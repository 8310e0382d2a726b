"""The rules for operations on perturbed arrays: products, lookups, views.

What has no rule is written out: correct, dearer, and reported to the observer.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from eggroll.perturbation import jaxprs, joins, meshes, ragged, views
from eggroll.perturbation.arithmetic import computing
from eggroll.perturbation.array import Perturbed
from eggroll.perturbation.interpreter import (
    Interpreter,
    PrimitiveRule,
    Use,
    is_perturbed,
)
from eggroll.perturbation.product import can_apply_gains, dot_general


def _dot_general(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    (contract, batch), params = eqn.params["dimension_numbers"], eqn.params
    if all(is_perturbed(x) for x in operands):
        pair, dims = (operands[0], operands[1]), (contract, batch)
        weight = jaxprs.rebind(eqn, [x.weight for x in pair])[0]
        if (product := joins.multiplied(*pair, dims, weight)) is not None:
            for x, summed, taken in zip(operands, *dims, strict=True):
                run.observe(Use.BATCH, x, "dot_general", taken)
                run.observe(Use.CONTRACT, x, "dot_general", summed)
            return product
        # A row that was looked up meets a matrix: write out the row.
        cost = lambda x: (not x.is_one_factor, not x.looked_up, x.weight.size)
        other = min((0, 1), key=lambda i: cost(operands[i]))
        operands[other] = run.written_out(operands[other], "dot_general")
    # The product is written for a leaf on the right: one on the left changes places,
    # and what is left of it moves back in front at the end.
    side = 1 if is_perturbed(operands[1]) else 0
    leaf, x = operands[side], operands[1 - side]
    if len(batch[side]) == leaf.ndim:
        return None  # element by element, as einsum writes it
    run.observe(Use.BATCH, leaf, "dot_general", batch[side])
    run.observe(Use.CONTRACT, leaf, "dot_general", contract[side])
    if not can_apply_gains(leaf, contract[side]):
        return None
    sharding = jaxprs.result_sharding(eqn)
    if sharding is not None and sharding.spec.unreduced:
        return None  # the thin products have no parts to be summed up later
    dims = ((contract[1 - side], contract[side]), (batch[1 - side], batch[side]))
    dtype = jaxprs.result_dtype(eqn)
    precision = params["precision"]
    if side == 0 and isinstance(precision, tuple):
        precision = precision[::-1]
    how = {"precision": precision, "dtype": dtype, "sharding": sharding}
    if side == 1:
        return dot_general(x, leaf, dims, **how)
    first = len(batch[0])
    n_x = x.ndim - first - len(contract[1])
    ndim = n_x + leaf.ndim - len(contract[0])
    order = [*range(first), *range(first + n_x, ndim), *range(first, first + n_x)]
    if sharding is not None:
        spec = dict(zip(order, sharding.spec, strict=False))
        how["sharding"] = sharding.update(spec=[spec.get(d) for d in range(ndim)])
    return jnp.transpose(dot_general(x, leaf, dims, **how), order)


def _conv(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    """Convolves: x * (W + Σ L_r R_r) = x * W + Σ (x * L_r) R_r, R by output feature.

    Where features are in groups, all groups have the same kernel L_r.
    """
    image, leaf = operands
    params = eqn.params
    numbers: lax.ConvDimensionNumbers = params["dimension_numbers"]
    out_dim, *in_dims = numbers.rhs_spec
    groups: int = params["feature_group_count"]
    if is_perturbed(image) or params["batch_group_count"] > 1:
        return None
    if any(math.prod(gain.shape) != gain.shape[out_dim] for gain in leaf.gains):
        return None
    run.observe(Use.CONTRACT, leaf, "conv_general_dilated", in_dims)
    left = [f for f in leaf.factors if f.shape[out_dim] == 1]
    right = [f for f in leaf.factors if all(f.shape[d] == 1 for d in in_dims)]
    if len(leaf.factors) != 2 or len(left) != 1 or len(right) != 1:
        return None
    # The left factor is a kernel with a feature for each rank, in each group.
    kernel = jnp.swapaxes(left[0], out_dim, -1)[..., 0].astype(image.dtype)
    wide = [kernel.shape[d] if d == out_dim else n for d, n in enumerate(leaf.shape)]
    kernel = jnp.concatenate([jnp.broadcast_to(kernel, wide)] * groups, out_dim)
    accumulator = leaf.accumulator
    base, thin = (
        jaxprs.rebind(eqn, [image, w], preferred_element_type=accumulator)[0]
        for w in (leaf.weight, kernel)
    )
    feature = numbers.out_spec[1]
    thin = jnp.moveaxis(thin, feature, -1)
    thin = thin.reshape(*thin.shape[:-1], groups, -1)
    to_features = right[0].reshape(groups, -1, leaf.rank).astype(accumulator)
    delta = jnp.einsum("...gr,gor->...go", thin, to_features)
    delta = jnp.moveaxis(delta.reshape(*thin.shape[:-2], -1), -1, feature)
    out = base + leaf.scale.wide(leaf.scale.thin(delta))
    for gain in leaf.gains:
        dims = [-1 if d == feature else 1 for d in range(out.ndim)]
        out = out * gain.reshape(dims)
    return out.astype(jaxprs.result_dtype(eqn))


def _gather(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    leaf, indices = operands
    if not is_perturbed(leaf) or is_perturbed(indices):
        return None
    numbers = eqn.params["dimension_numbers"]
    run.observe(Use.BATCH, leaf, "gather", numbers.operand_batching_dims)
    sizes = [
        n if d in numbers.start_index_map else leaf.shape[d]
        for d, n in enumerate(eqn.params["slice_sizes"])
    ]
    _observe_position(Use.INDEX, leaf, "gather", sizes, run)
    return views.gather(leaf, indices, eqn.params)


def _dynamic_slice(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    leaf, *start = operands
    if not is_perturbed(leaf):
        return None
    sizes = eqn.params["slice_sizes"]
    _observe_position(Use.INDEX, leaf, "dynamic_slice", sizes, run)
    return views.dynamic_slice(leaf, start, sizes)


def _slice(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Perturbed:
    (leaf,), params = operands, eqn.params
    start, limit = params["start_indices"], params["limit_indices"]
    sizes = [b - a for a, b in zip(start, limit, strict=True)]
    _observe_position(Use.PART, leaf, "slice", sizes, run)
    return views.slice_(leaf, start, limit, params["strides"])


def _observe_position(
    use: Use, leaf: Perturbed, primitive: str, sizes: Sequence[int], run: Interpreter
) -> None:
    one = [d for d, n in enumerate(sizes) if n == 1 < leaf.shape[d]]
    if one:
        run.observe(use, leaf, primitive, one)


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
    is_float = leaf.is_quantised or jnp.issubdtype(leaf.dtype, jnp.floating)
    stays = leaf.dtype == dtype or (is_float and jnp.issubdtype(dtype, jnp.inexact))
    return views.convert(leaf, dtype) if stays else None


def _reshape(eqn: JaxprEqn, operands: list[Any]) -> Perturbed:
    leaf, order = operands[0], eqn.params["dimensions"]
    if order is not None:
        leaf = views.transpose(leaf, order)
    return views.reshape(leaf, eqn.params["new_sizes"], jaxprs.result_sharding(eqn))


def _split(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> list[Perturbed]:
    leaf, axis, start, parts = operands[0], eqn.params["axis"], 0, []
    if 1 in eqn.params["sizes"] and leaf.shape[axis] > 1:
        run.observe(Use.PART, leaf, "split", (axis,))
    for size in eqn.params["sizes"]:
        low = [start if d == axis else 0 for d in range(leaf.ndim)]
        high = [start + size if d == axis else n for d, n in enumerate(leaf.shape)]
        parts.append(views.slice_(leaf, low, high, None))
        start += size
    return parts


def _stack(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    if not all(is_perturbed(x) for x in operands):
        return None
    return joins.stack(operands, eqn.params["axis"])


def _unstack(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> list[Perturbed]:
    leaf, axis = operands[0], eqn.params["axis"]
    if leaf.shape[axis] > 1:
        run.observe(Use.PART, leaf, "unstack", (axis,))
    low, high, parts = [0] * leaf.ndim, list(leaf.shape), []
    for i in range(leaf.shape[axis]):
        low[axis], high[axis] = i, i + 1
        part = views.slice_(leaf, low, high, None)
        parts.append(views.squeeze(part, (axis,)))
    return parts


def _barrier(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> list[Any]:
    return list(lax.optimization_barrier(operands))


def _vary(eqn: JaxprEqn, operands: list[Any]) -> Perturbed:
    """The same value on every device: so are all its parts."""
    return meshes.vary(operands[0], eqn.params["axes"])


def _weights_only(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> list[Any]:
    """What says where or how the weight is kept; the factors are small."""
    weights = [x.weight if is_perturbed(x) else x for x in operands]
    pairs = zip(operands, jaxprs.rebind(eqn, weights), strict=True)
    return [x.replace(w, x.parts) if is_perturbed(x) else w for x, w in pairs]


def _reshard(eqn: JaxprEqn, operands: list[Any]) -> Perturbed:
    leaf = operands[0]
    weight, (kept, scale) = jaxprs.resharded(eqn, leaf.weight, (leaf.kept, leaf.scale))
    return Perturbed.tree_unflatten(leaf.static, (weight, kept, scale))


RULES: dict[str, PrimitiveRule] = {
    "dot_general": computing(_dot_general),
    "conv_general_dilated": computing(_conv),
    "ragged_dot_general": computing(ragged.rule),
    "gather": _gather,
    "convert_element_type": _convert,
    "stack": _stack,
    "unstack": _unstack,
    "optimization_barrier": _barrier,
    "transpose": _view(lambda e, x: views.transpose(x[0], e.params["permutation"])),
    "reshape": _view(_reshape),
    "rev": _view(lambda e, x: views.rev(x[0], e.params["dimensions"])),
    "tile": _view(lambda e, x: views.tile(x[0], e.params["reps"])),
    "squeeze": _view(lambda e, x: views.squeeze(x[0], e.params["dimensions"])),
    "broadcast_in_dim": _view(
        lambda e, x: views.broadcast_in_dim(
            x[0],
            e.params["shape"],
            e.params["broadcast_dimensions"],
            jaxprs.result_sharding(e),
        )
    ),
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "split": _split,
    "copy": _view(lambda e, x: x[0]),
    "copy_p": _view(lambda e, x: x[0]),
    "stop_gradient": _view(lambda e, x: x[0]),
    "name": _weights_only,
    "device_put": _weights_only,
    "sharding_constraint": _weights_only,
    "reshard": _view(_reshard),
    "pvary": _view(_vary),
}
