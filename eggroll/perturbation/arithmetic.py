"""The rules for sums and scalings of perturbed arrays.

What is linear in a weight keeps its factors: a sum of two has the factors of both, side
by side; constants are added to the weight; a scale of rows or columns goes into the
factor that varies along them.

    (W + A Bᵀ) ± (V + C Dᵀ) = (W ± V) + [A, ±C] [B, D]ᵀ
    (W + A Bᵀ) diag(s) = W diag(s) + A (diag(s) B)ᵀ

Only constants go into a weight, which all members share: it would become one for each
with what varies between them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn
from jaxtyping import Array

from eggroll.perturbation import jaxprs, joins, views
from eggroll.perturbation.array import Perturbed
from eggroll.perturbation.interpreter import Interpreter, PrimitiveRule, is_perturbed


def computing(rule: PrimitiveRule) -> PrimitiveRule:
    """A rule that declines what is quantised, and has to be converted before."""

    def careful(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
        quantised = any(is_perturbed(x) and x.is_quantised for x in operands)
        return None if quantised else rule(eqn, operands, run)

    return careful


def _summed(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    sign = -1 if eqn.primitive.name == "sub" else 1
    first, second = operands
    if is_perturbed(first) and is_perturbed(second):
        return joins.summed(first, _times(second, sign))
    own = 0 if is_perturbed(first) else 1
    leaf = operands[own]
    if leaf.gained or not _takes_constants(eqn, own, operands, run):
        return None
    weights = [x.weight if is_perturbed(x) else x for x in operands]
    weight = jaxprs.rebind(eqn, weights)[0]
    leaf = _times(leaf, sign) if own else leaf
    return leaf and leaf.replace(weight, leaf.parts)


def _complex(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    """A complex matrix of two real ones, of rank 2r."""
    if not all(is_perturbed(x) for x in operands):
        return None
    dtype = jaxprs.result_dtype(eqn)
    real, imaginary = (views.convert(x, dtype) for x in operands)
    return joins.summed(real, _times(imaginary, 1j))


def _scaled(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    """Multiplication or division by a number, or by one for each row.

    A member's own numbers become a gain, of a constant matrix, too; what all members
    share goes into weight and factors.
    """
    own, is_product = _scaled_one(eqn, operands, run), eqn.primitive.name == "mul"
    leaf, number = operands[own], operands[1 - own]
    operation = jnp.multiply if is_product else jnp.divide
    if own and not is_product:
        return None
    if _is_matrix(eqn, leaf) and run.flow.varies(eqn.invars[1 - own]):
        return _gained(eqn, own, operands, operation, run)
    if not is_perturbed(leaf) or is_perturbed(number):
        return None
    if not jnp.ndim(number):
        number = jnp.asarray(number, leaf.dtype)  # as the function would round it
        return views.scaled(leaf, operation, number)
    along = _along(eqn, 1 - own, number, run)
    if len(along) > 1 or not _takes_constants(eqn, own, operands, run):
        return None
    weight = operation(leaf.weight, number)
    rows = _compact(number, along).astype(leaf.accumulator)
    return views.scaled_along(leaf, weight, operation, rows)


def _scaled_one(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> int:
    """Which of two factors is scaled by the other: a matrix, if one is."""
    low_rank = [is_perturbed(x) and _is_matrix(eqn, x) for x in operands]
    if any(low_rank):
        return low_rank.index(True)
    constant = [
        not run.flow.varies(v) and _is_matrix(eqn, x)
        for v, x in zip(eqn.invars, operands, strict=True)
    ]
    return constant.index(True) if any(constant) else int(is_perturbed(operands[1]))


def _is_matrix(eqn: JaxprEqn, x: Any) -> bool:
    """Whether an operand, as wide as the result, is dear to write out per member."""
    if getattr(x, "shape", ()) != jaxprs.result_shape(eqn):
        return False
    if is_perturbed(x):
        return not x.is_free_to_write_out and not x.is_integer
    is_wide = sum(n > 1 for n in x.shape) > 1
    return is_wide and jnp.issubdtype(x.dtype, jnp.floating)


def _gained(
    eqn: JaxprEqn,
    own: int,
    operands: list[Any],
    operation: Callable,
    run: Interpreter,
) -> Any:
    """A matrix times what each member has of its own: a number, or one a row."""
    leaf, number = operands[own], operands[1 - own]
    along = _along(eqn, 1 - own, number, run)
    is_dear = is_perturbed(number) and not number.is_free_to_write_out
    if len(along) > 1 or is_dear:
        return None
    number = number.materialise() if is_perturbed(number) else number
    whole = leaf if is_perturbed(leaf) else Perturbed(leaf, ())
    gain = operation(1, _compact(number, along).astype(whole.accumulator))
    return whole.times(gain.reshape(gain.shape or (1,) * leaf.ndim))


def _negated(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    return _times(operands[0], -1)


def _selected(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    """A weight with a constant in the place of some rows: those do not evolve."""
    which, *cases = operands
    if is_perturbed(cases[0]) and all(x is cases[0] for x in cases):
        return cases[0]  # the same in any case: so JAX maps what a switch needs
    perturbed = [i for i, x in enumerate(cases) if is_perturbed(x)]
    if len(perturbed) != 1 or is_perturbed(which) or not jnp.ndim(which):
        return None
    own, along = perturbed[0], _along(eqn, 0, which, run)
    leaf = cases[own]
    if len(along) > 1 or leaf.gained:
        return None
    if not _takes_constants(eqn, own + 1, operands, run):
        return None
    weights = [x.weight if is_perturbed(x) else x for x in operands]
    rows = (_compact(which, along) == own).astype(leaf.accumulator)
    weight = jaxprs.rebind(eqn, weights)[0]
    return views.scaled_along(leaf, weight, jnp.multiply, rows)


def _replaced(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    """Constants in the place of some rows, `w.at[rows].set(0)`: those do not evolve."""
    leaf, indices, updates = operands
    if not is_perturbed(leaf) or not _takes_constants(eqn, 0, operands, run):
        return None
    numbers: lax.ScatterDimensionNumbers = eqn.params["dimension_numbers"]
    along = {*numbers.scatter_dims_to_operand_dims}
    kept = [d for d in range(leaf.ndim) if d not in numbers.inserted_window_dims]
    sizes = [updates.shape[d] for d in numbers.update_window_dims]
    if len(along) != 1 or numbers.operand_batching_dims or leaf.gained:
        return None
    pairs = zip(kept, sizes, strict=True)
    if any(n != leaf.shape[d] for d, n in pairs if d not in along):
        return None
    put = lambda x, value: jaxprs.rebind(eqn, [x, indices, value])[0]
    rows = put(jnp.ones_like(leaf.weight), jnp.zeros_like(updates))
    rows = _compact(rows, along).astype(leaf.accumulator)
    weight = put(leaf.weight, updates)
    return views.scaled_along(leaf, weight, jnp.multiply, rows)


def _added(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    """Constants added to some elements, `w.at[rows].add(1)`."""
    leaf, *rest = operands
    is_leaf = is_perturbed(leaf) and not leaf.gained
    if not is_leaf or not _takes_constants(eqn, 0, operands, run):
        return None
    return leaf.replace(jaxprs.rebind(eqn, [leaf.weight, *rest])[0], leaf.parts)


def _padded(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    leaf = operands[0]
    if not is_perturbed(leaf) or not _constants(eqn, (1,), run):
        return None
    return views.pad(leaf, operands[1], eqn.params["padding_config"])


def _concatenated(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    plain = [i for i, x in enumerate(operands) if not is_perturbed(x)]
    if plain:
        free = any(is_perturbed(x) and x.is_free_to_write_out for x in operands)
        if free or not _constants(eqn, plain, run):
            return None
    return joins.concatenate(operands, eqn.params["dimension"])


def _times(leaf: Perturbed, number: complex) -> Perturbed | None:
    return views.scaled(leaf, jnp.multiply, jnp.asarray(number, leaf.dtype))


def _takes_constants(
    eqn: JaxprEqn, own: int, operands: list[Any], run: Interpreter
) -> bool:
    """Whether all but one operand are constants that can go into that one.

    (What is written out for nothing stays as it is: a vector, an activation.)
    """
    leaf, others = operands[own], [i for i in range(len(operands)) if i != own]
    return _is_matrix(eqn, leaf) and _constants(eqn, others, run)


def _constants(eqn: JaxprEqn, which: Sequence[int], run: Interpreter) -> bool:
    """Whether some operands of an equation are the same for all members."""
    return not any(run.flow.varies(eqn.invars[i]) for i in which)


def _along(eqn: JaxprEqn, i: int, x: Array, run: Interpreter) -> set[int]:
    """The dimensions along which an operand may vary."""
    wide = {d for d, n in enumerate(getattr(x, "shape", ())) if n != 1}
    return wide & run.flow.along.get(eqn.invars[i], wide)


def _compact(x: Array, along: set[int]) -> Array:
    """An array with size 1 along the dimensions where it does not vary."""
    limits = [n if d in along else 1 for d, n in enumerate(x.shape)]
    return lax.slice(x, [0] * x.ndim, limits)


RULES: dict[str, PrimitiveRule] = {
    "add": computing(_summed),
    "add_any": computing(_summed),
    "sub": computing(_summed),
    "complex": computing(_complex),
    "mul": computing(_scaled),
    "div": computing(_scaled),
    "neg": computing(_negated),
    "select_n": computing(_selected),
    "scatter": computing(_replaced),
    "scatter-add": computing(_added),
    "scatter-sub": computing(_added),
    "pad": computing(_padded),
    "concatenate": _concatenated,
}
