"""The update: noise drawn again and contracted with the weights of the members.

    Σ_i w_i A_i B_iᵀ = (diag(w) A)ᵀ B        one matmul (rows × Nr)(Nr × cols)

A perturbation itself is never formed, and a pair enters once, as the difference of its
members' weights.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from eggroll import noise as noise_
from eggroll.noise import Noise
from eggroll.plan import Layout


def weighted_sum(
    plan: Sequence[Layout],
    key: PRNGKeyArray,
    noise: Noise,
    pairs: Int[Array, " pairs"],
    weights: Float[Array, " pairs"],
) -> list[Float[Array, "..."] | None]:
    """Returns Σ_p w_p (product of the factors of pair p), for each leaf.

    Args:
        plan: how each leaf is perturbed.
        key: of the generation.
        noise: distribution of the factors' entries.
        pairs: whose noise.
        weights: one for each.
    """
    drawn = noise_.draw(plan, key, pairs, noise)
    return [
        None if layout.is_frozen else contract(layout, factors, weights)
        for layout, factors in zip(plan, drawn, strict=True)
    ]


def contract(
    layout: Layout,
    factors: Sequence[Array],
    weights: Float[Array, " pairs"],
) -> Float[Array, "*dims"]:
    """Returns Σ_p w_p Σ_r Π_k factor_k[p, ..., r], of the leaf's shape."""
    dims = [f"dim{d}" for d in range(len(layout.shape))]
    names = ["pair", *dims, "rank"]
    letters = {name: i for i, name in enumerate(names)}
    kept = [[i for i, n in enumerate(f.shape) if i == 0 or n != 1] for f in factors]
    operands = []
    for factor, keep in zip(factors, kept, strict=True):
        thin = factor.reshape([factor.shape[i] for i in keep]).astype(weights.dtype)
        operands.append((thin, [letters[names[i]] for i in keep]))
    first, labels = operands[0]
    weighted = first * weights.reshape(-1, *(1,) * (first.ndim - 1))
    present = {n for _, ns in operands for n in ns}
    out = [letters[d] for d in dims if letters[d] in present]
    flat = [x for pair in [(weighted, labels), *operands[1:]] for x in pair]
    total = jnp.einsum(*flat, out, preferred_element_type=weights.dtype)
    return total.reshape(layout.shape)
