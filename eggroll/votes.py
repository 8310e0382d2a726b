"""Votes of antithetic pairs on each weight, counted exactly, in integers.

    Z = Σ_p F_p A_p B_pᵀ = (diag(F) A)ᵀ B,       F_p = sign(f⁺_p - f⁻_p)

One int8 matmul a matrix; a sum of integers does not depend on its order.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, Int8, Int32, Num, PRNGKeyArray, PyTree

from eggroll import noise as noise_
from eggroll.plan import Layout


def pair_signs(fitness: Num[Array, " members"]) -> Int8[Array, " pairs"]:
    """Returns +1 or -1 for each pair, by its better member; 0 for a tie or a NaN."""
    plus, minus = fitness[0::2], fitness[1::2]
    return (plus > minus).astype(jnp.int8) - (plus < minus).astype(jnp.int8)


def count(
    plan: Sequence[Layout],
    key: PRNGKeyArray,
    noise: str,
    pairs: Int[Array, " pairs"],
    signs: Int8[Array, " pairs"],
) -> list[Int32[Array, "..."]]:
    """Returns the votes of some pairs on each leaf.

    Args:
        plan: how each leaf is perturbed.
        key: of the generation.
        noise: distribution of the factors' entries.
        pairs: whose noise.
        signs: the way that each pair votes: -1, 0 or 1.
    """

    def leaf(layout: Layout) -> Int32[Array, "*dims"]:
        if layout.is_frozen:
            return jnp.zeros(layout.shape, jnp.int32)
        first, *rest = noise_.draw(layout, key, pairs, noise)
        signed = first * signs.reshape(-1, *(1,) * (first.ndim - 1))
        return contract(layout, signed, rest)

    return [leaf(layout) for layout in plan]


def contract(
    layout: Layout, first: Int8[Array, "pairs ..."], rest: Sequence[Array]
) -> Int32[Array, "*dims"]:
    """Returns Σ_p Σ_r first[p, ..., r] · rest[p, ..., r]: for a matrix, one matmul."""
    if layout.rule.rank is None or not rest:
        product = first.astype(jnp.int32)
        for factor in rest:
            product = product * factor.astype(jnp.int32)
        return jnp.sum(product, axis=(0, -1), dtype=jnp.int32)
    left, right = (jnp.moveaxis(x, 0, -1) for x in (first, *rest))
    left, right = jnp.squeeze(left, -3), jnp.squeeze(right, -4)
    batch = tuple(range(len(layout.batch)))
    left, right = (x.reshape(*x.shape[:-2], -1) for x in (left, right))
    last = left.ndim - 1
    return lax.dot_general(
        left,
        right,
        (((last,), (last,)), (batch, batch)),
        preferred_element_type=jnp.int32,
    )


def sum_chunks(
    function: Callable[[PyTree], list[Array]], rows: PyTree, chunk: int
) -> list[Array]:
    """Sums a function of chunks of rows. Rows of zeros fill the last chunk up."""
    count = jax.tree.leaves(rows)[0].shape[0]
    chunks = -(-count // chunk)
    if chunks == 1:
        return function(rows)
    size = -(-count // chunks)

    def divide(x: Array) -> Array:
        padding = [(0, chunks * size - count)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(chunks, size, *x.shape[1:])

    def add(total: list[Array], rows: PyTree) -> tuple[list[Array], None]:
        return jax.tree.map(jnp.add, total, function(rows)), None

    divided = jax.tree.map(divide, rows)
    like = jax.eval_shape(function, jax.tree.map(lambda x: x[0], divided))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    total, _ = lax.scan(add, zeros, divided)
    return total
