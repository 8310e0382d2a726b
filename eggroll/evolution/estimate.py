"""The update: noise drawn again and contracted with the weights of the members.

    Σ_i w_i A_i B_iᵀ = (diag(w) A)ᵀ B        one matmul (rows × Nr)(Nr × cols)

A perturbation itself is never formed, and a pair enters once, as the difference of its
members' weights.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num

from eggroll.evolution import shaping
from eggroll.evolution.distributions import Noise, unit_scale
from eggroll.perturbation.layout import Layout


def narrowed(
    values: Float[np.ndarray, " members"], *, antithetic: bool
) -> Float[Array, " members"]:
    """Turns values of the host into float32; finite ones stay finite.

    What the weights of a pair have in common cancels in the update: with `antithetic`
    it is dropped while there is room for the difference beside it.
    """
    if antithetic:
        half = values[0::2] / 2 - values[1::2] / 2
        values = np.stack([half, -half], axis=1).reshape(-1)
    limit = np.finfo(np.float32).max
    cut = np.where(np.isfinite(values), np.clip(values, -limit, limit), values)
    return jnp.asarray(cut, jnp.float32)


@functools.partial(jax.jit, static_argnames="antithetic")
def pair_weights(
    weights: Num[Array, " members"], *, antithetic: bool
) -> tuple[Float[Array, " pairs"], Float[Array, ""]]:
    """Returns what each pair (without pairs: each member) weighs in the update.

    Pairs weigh the difference of their members. It is taken in the weights' own type
    and then narrowed, in units in which nothing can overflow.

    Returns:
        The weights, float32, and their unit.
    """
    if jnp.issubdtype(weights.dtype, jnp.integer):
        if antithetic:
            return _difference(weights[0::2], weights[1::2]), jnp.ones(())
        weights = weights.astype(jnp.float32)
    weights, unit = shaping.scaled_down(weights)
    if antithetic:
        weights = weights[0::2] - weights[1::2]
    return weights.astype(jnp.float32), unit.reshape(())


@functools.partial(jax.jit, static_argnames="population")
def step_factor(
    sigma: Float[Array, ""], population: int
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """Returns 1/(Nσ), and whether σ is one to divide by; else it is zero."""
    is_sound = (sigma > 0) & jnp.isfinite(sigma)
    return jnp.where(is_sound, 1 / (population * sigma), 0), is_sound


def _difference(
    a: Int[Array, " pairs"], b: Int[Array, " pairs"]
) -> Float[Array, " pairs"]:
    """Subtracts integers exactly, whatever their size, before it narrows them."""
    wide = jnp.dtype(f"u{a.dtype.name.lstrip('u')}")
    a_, b_ = a.astype(wide), b.astype(wide)
    above, below = (x.astype(jnp.float32) for x in (a_ - b_, b_ - a_))
    return jnp.where(a > b, above, -below)


def contract(
    layout: Layout,
    factors: Sequence[Array],
    weights: Float[Array, " pairs"],
) -> Float[Array, "*dims"]:
    """Returns Σ_p w_p Σ_r Π_k factor_k[p, ..., r], of the leaf's shape."""
    return _sum_of_products(factors, weights).reshape(layout.shape)


@jax.jit  # traced once for all leaves alike
def _sum_of_products(
    factors: Sequence[Array], weights: Float[Array, " pairs"]
) -> Float[Array, "..."]:
    """What `contract` returns, without the dimensions of size 1.

    Einsum then sees the plain product of matrices that it is.
    """
    dims = range(1, factors[0].ndim - 1)  # the pairs before, the rank behind
    operands = []
    for factor in factors:
        kept = [i for i, n in enumerate(factor.shape) if i == 0 or n != 1]
        thin = factor.reshape([factor.shape[i] for i in kept]).astype(weights.dtype)
        operands.append((thin, kept))
    first, labels = operands[0]
    weighted = first * weights.reshape(-1, *(1,) * (first.ndim - 1))
    present = {i for _, kept in operands for i in kept}
    out = [d for d in dims if d in present]
    flat = [x for pair in [(weighted, labels), *operands[1:]] for x in pair]
    return jnp.einsum(*flat, out, preferred_element_type=weights.dtype)


def scaled(
    total: Array | None,
    layout: Layout,
    noise: Noise,
    factor: Array,
    unit: Array,
    dtype: Any = None,
) -> Array | None:
    """Turns a sum of unscaled factor products into minus a gradient estimate.

    Args:
        total: the sum; None for a frozen leaf.
        layout: of the leaf.
        noise: the distribution of the factors.
        factor: what it is multiplied by, beside what leaf and noise say.
        unit: and by this, last of all.
        dtype: of the result; None for the leaf's own (of whole numbers: float32).

    Returns:
        The gradient, within the range of its type; None for a leaf that is no
        floating-point number and does not evolve.
    """
    own = jnp.dtype(layout.dtype)
    if not jnp.issubdtype(own, jnp.inexact):
        if total is None:
            return None
        own = jnp.dtype(jnp.float32)
    dtype = own if dtype is None else jnp.dtype(dtype)
    if total is None:
        return jnp.zeros(layout.shape, dtype)
    scale = unit_scale(layout, noise) / layout.sigma_scale
    return _scaled(total, -scale * factor, unit, dtype)


@functools.partial(jax.jit, static_argnames="dtype")  # traced once for all leaves alike
def _scaled(
    total: Float[Array, "*dims"], factor: Array, unit: Array, dtype: Any
) -> Float[Array, "*dims"]:
    wide = jnp.float64 if dtype == jnp.float64 else jnp.float32
    grads = (factor * total).astype(wide) * unit.astype(wide)
    limit = jnp.finfo(dtype).max.astype(wide)
    return lax.clamp(-limit, grads, limit).astype(dtype)
