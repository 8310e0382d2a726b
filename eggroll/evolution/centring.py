"""Means and spreads of fitness of any size and offset, without overflow or loss.

Compiled as a whole, as on the host it would be dozens of programs, one an operation.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num


def scaled_down(
    values: Float[Array, "*dims"], axis: int | None = None
) -> tuple[Float[Array, "*dims"], Float[Array, "..."]]:
    """Divides by a power of two, exactly, so that the largest value is near 1.

    Returns:
        The values, and what they were divided by.
    """
    sizes = jnp.where(jnp.isfinite(values), jnp.abs(values), 0)
    power = _power_below(jnp.max(sizes, axis=axis, keepdims=True, initial=0))
    # Smaller units, and inverses of larger ones, would be flushed to zero.
    least = jnp.array(jnp.finfo(values.dtype).smallest_normal, values.dtype)
    unit = jnp.clip(power, least, 1 / least)
    return values / unit, unit


@jax.jit
def deviations(
    values: Num[Array, "*groups size"],
) -> tuple[Float[Array, "*groups size"], list[Float[Array, "..."]]]:
    """Subtracts the mean of each group, in units of the largest deviation.

    Values are first counted from the least of their group, which is exact where it
    matters: fitness that does not vary becomes zero, and small differences beside a
    large offset stay what they are.

    Returns:
        The deviations, and the powers of two that turn them, one after the other, into
        those of the values.
    """
    units = []
    if jnp.issubdtype(values.dtype, jnp.integer):
        wide = jnp.dtype(f"u{values.dtype.name.lstrip('u')}")  # no difference overflows
        least = jnp.min(values, axis=-1, keepdims=True)
        counted = (values.astype(wide) - least.astype(wide)).astype(jnp.float32)
    else:
        values, unit = scaled_down(values)
        units = [unit]
        usable = jnp.isfinite(values)
        least = jnp.min(jnp.where(usable, values, jnp.inf), axis=-1, keepdims=True)
        counted = values - jnp.where(jnp.isfinite(least), least, 0)
    counted, unit = scaled_down(counted)
    found, own = scaled_down(counted - _mean(counted))
    return found, [own, unit, *units]


@functools.partial(jax.jit, static_argnames="axis")
def standardised(
    deviations: Float[Array, "*groups size"], axis: int | None = None
) -> Float[Array, "*groups size"]:
    """Divides by the root of the mean square, of all or along an axis; zeros stay."""
    spread = jnp.sqrt(_mean(deviations**2, axis))
    return jnp.where(spread > 0, deviations / jnp.where(spread > 0, spread, 1), 0.0)


def _power_below(sizes: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """The largest power of two within each; zero for what is less than normal.

    (A mask on its bits: `frexp` and `ldexp` are forty operations more to compile.)
    """
    info = jnp.finfo(sizes.dtype)
    whole = jnp.dtype(f"uint{info.bits}")
    mantissa = jnp.array((1 << info.nmant) - 1, whole)
    bits = lax.bitcast_convert_type(sizes, whole) & ~mantissa
    return lax.bitcast_convert_type(bits, sizes.dtype)


def _mean(values: Float[Array, "..."], axis: int | None = -1) -> Float[Array, "..."]:
    """Means over the usable members; 0 where there is none."""
    usable = jnp.isfinite(values)
    total = jnp.sum(jnp.where(usable, values, 0), axis=axis, keepdims=True)
    count = jnp.sum(usable, axis=axis, keepdims=True, dtype=total.dtype)
    return total / jnp.maximum(count, 1)
