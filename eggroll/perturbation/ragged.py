"""Products of rows with the matrix of each row's group: mixtures of experts.

Rows stand group by group, and `sizes` says how many each has. Members share the
matrices and have rows and groups of their own: all rows together, sorted by group, meet
the matrices once. (JAX's own rule would have a copy of the matrices for each member.)
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn
from jaxtyping import Array, Float, Int

from eggroll.perturbation import jaxprs
from eggroll.perturbation.interpreter import Interpreter, Use, is_perturbed
from eggroll.perturbation.product import perturbation, promoted


ROW_BY_ROW = (((1,), (1,)), ((0,), (0,)))


def rule(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> Any:
    """A row's part of the perturbation is that of its matrix: x W_g + (x L_g) R_gᵀ."""
    x, leaf, sizes = operands
    if is_perturbed(x) or is_perturbed(sizes) or not _is_plain(eqn):
        return None
    if is_perturbed(leaf) and (leaf.gained or leaf.is_integer):
        return None
    if not is_perturbed(leaf):
        return shared(eqn, x, leaf, sizes)
    run.observe(Use.BATCH, leaf, "ragged_dot_general", (0,))
    run.observe(Use.CONTRACT, leaf, "ragged_dot_general", (1,))
    wide = promoted(leaf.accumulator, x.dtype)
    base = shared(eqn, x, leaf.weight, sizes, preferred_element_type=wide)
    group = groups(sizes, x.shape[0])
    own = lambda f: f if f.shape[0] == 1 else f.at[group].get(mode="clip")
    # What is not there, a matrix for each row, is not needed: its factors are.
    shape = jax.ShapeDtypeStruct((x.shape[0], *leaf.shape[1:]), leaf.dtype)
    of_rows = leaf.replace(shape, [own(f) for f in leaf.factors])
    delta = perturbation(x, of_rows, ROW_BY_ROW)
    is_any = (group < leaf.shape[0])[:, None]
    out = base + jnp.where(is_any, delta, 0)
    return out.astype(jaxprs.result_dtype(eqn))


def _is_plain(eqn: JaxprEqn) -> bool:
    """Whether rows of a matrix meet one matrix each, as `jax.lax.ragged_dot` has it."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    return (
        numbers.dot_dimension_numbers == (((1,), (1,)), ((), ()))
        and tuple(numbers.lhs_ragged_dimensions) == (0,)
        and tuple(numbers.rhs_group_dimensions) == (0,)
        and eqn.params["group_offset"] is None
    )


def groups(sizes: Int[Array, " groups"], rows: int) -> Int[Array, " rows"]:
    """The group of each row; those behind the last one are of none there is."""
    ends = jnp.cumsum(sizes)
    return jnp.searchsorted(ends, jnp.arange(rows, dtype=ends.dtype), side="right")


def shared(
    eqn: JaxprEqn,
    x: Float[Array, "rows inputs"],
    w: Float[Array, "groups inputs outputs"],
    sizes: Int[Array, " groups"],
    **changed: Any,
) -> Float[Array, "rows outputs"]:
    """The product of an equation; under `jax.vmap`, `w` is read once for all."""
    plain = lambda *operands: jaxprs.rebind(eqn, operands, **changed)[0]
    product = jax.custom_batching.custom_vmap(plain)

    @product.def_vmap
    def of_all(count: int, batched: Sequence[bool], x: Any, w: Any, sizes: Any) -> Any:
        wide = lambda x, has: x if has else jnp.broadcast_to(x, (count, *x.shape))
        x, sizes = wide(x, batched[0]), wide(sizes, batched[2])
        if batched[1]:
            return jax.vmap(plain)(x, w, sizes), True
        rows = x.shape[1]
        group = jax.vmap(lambda sizes: groups(sizes, rows))(sizes).reshape(-1)
        order = jnp.argsort(group, stable=True)
        sorted_ = x.reshape(count * rows, -1)[order]
        out = product(sorted_, w, jnp.sum(sizes, 0, dtype=sizes.dtype))
        out = jnp.zeros_like(out).at[order].set(out, unique_indices=True)
        return out.reshape(count, rows, -1), True

    return product(x, w, sizes)
