"""Exact integer stand-ins for the tables of the EGG language model.

Everything here maps integers to integers, elementwise, without a floating-point
operation on the device and without a large table: the published program looks
divisions up in 16 MiB and logarithms in 1 GiB.

Two ways of dropping bits run through the file: `"nearest"` rounds to nearest, halves
away from zero, so that f(-x) = -f(x); `"floor"` is what a plain `>>` does, and what
the published program does, which pulls every number down by half a unit on average.
"""

import math
from typing import Literal, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int8, Int32, Integer


Rounding: TypeAlias = Literal["nearest", "floor"]

LIMIT = 127  # -128 stays unused, so that every int8 has its mirror image
EXP2 = np.array([int(16 * 2 ** (i / 16)) for i in range(256)], np.int32)


def _ceil_root16(x: int) -> int:
    """The smallest integer whose sixteenth power exceeds `x`, in exact arithmetic."""
    for _ in range(4):
        x = math.isqrt(x)
    return x + 1


# ceil(2^(30 + k/16)) for k = 1 ... 15: none of these powers is an integer.
_STEPS = [_ceil_root16(2 ** (16 * 30 + k)) for k in range(1, 16)]


def saturate(x: Integer[Array, "*shape"]) -> Int8[Array, "*shape"]:
    """Clip to [-127, 127] and store as int8."""
    return jnp.clip(x, -LIMIT, LIMIT).astype(jnp.int8)


def shift_right(
    x: Int32[Array, "*shape"], bits: int, rounding: Rounding = "nearest"
) -> Int32[Array, "*shape"]:
    """Return x / 2^bits.

    Args:
        x: Below 2^30 in magnitude.
        bits: At least 0.
        rounding: See the module's docstring.
    """
    if bits == 0:
        return x
    if rounding == "nearest":
        # Adding half a unit rounds halves up; `x >> 31` (-1 for x < 0) sends those
        # of negative numbers down instead: away from zero on both sides.
        x = x + (1 << (bits - 1)) + (x >> 31)
    return x >> bits


def divide(
    x: Int32[Array, "*shape"],
    by: Int32[Array, "*#shape"],
    rounding: Rounding = "nearest",
) -> Int8[Array, "*shape"]:
    r"""Return the saturated quotient x / by, with one true division per divisor.

    The divisors of a layer norm are shared by whole rows, so the quotient is taken by
    multiplying with $r = \lceil 2^k / by \rceil$: for $0 \le a < 2^n$ and
    $0 < by < 2^7$, $\lfloor a r / 2^k \rfloor = \lfloor a / by \rfloor$ as soon as
    $k \ge n + 7$.

    Args:
        x: Any int32 below 2^30 in magnitude.
        by: Between 1 and 127; broadcasts against `x`.
        rounding: See the module's docstring.

    References:
        Granlund and Montgomery, "Division by Invariant Integers using
        Multiplication", 1994, theorem 4.2.
    """
    if rounding == "nearest":
        reciprocal = _ceil_divide(1 << 21, by)
        # Quotients beyond 127 saturate anyway: cutting them first keeps n at 14.
        size = jnp.minimum(jnp.abs(x) + (by >> 1), 128 * by - 1)
        quotient = (size * reciprocal) >> 21
        return jnp.where(x < 0, -quotient, quotient).astype(jnp.int8)
    reciprocal = _ceil_divide(1 << 22, by)
    lifted = jnp.clip(x + 128 * by, 0, 256 * by - 1)  # n = 15, no sign left
    return saturate(((lifted * reciprocal) >> 22) - 128)


def _ceil_divide(numerator: int, by: Int32[Array, "*shape"]) -> Int32[Array, "*shape"]:
    return lax.div(numerator + by - 1, by)


def exp2_sixteenths(x: Int8[Array, "*shape"]) -> Int32[Array, "*shape"]:
    """Return the integer part of 16 * 2^((x + 128) / 16), by a table of 256 entries."""
    # As unsigned bytes, indices can be neither negative nor out of bounds, and XLA
    # emits no code for either: a quarter faster than with int32 indices.
    index = lax.bitcast_convert_type(x, jnp.uint8) ^ np.uint8(128)
    return jnp.asarray(EXP2).at[index].get(mode="promise_in_bounds")


def log2_sixteenths(x: Int32[Array, "*shape"]) -> Int32[Array, "*shape"]:
    r"""Return $\lfloor 16 \log_2(x / 16) \rfloor$, exactly, for 16 <= x < 2^31.

    With x scaled to [2^30, 2^31), the integer part of the logarithm is the number of
    bits dropped, and its sixteenths are how many of the fifteen numbers 2^(30 + k/16)
    it reaches. Equal, on every sum that can occur, to the published table of 2^28
    entries int(16 log2(i / 16)).
    """
    leading_zeros = lax.clz(x)
    scaled = x << (leading_zeros - 1)
    sixteenths = sum((scaled >= step).astype(jnp.int32) for step in _STEPS)
    return 16 * (31 - leading_zeros) + sixteenths - 64
