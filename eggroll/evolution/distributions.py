"""The distributions of factors' entries: from random words to int8 values.

What a value is worth in standard deviations is `std(noise)`: the scale of a
perturbation makes up for it.
"""

import functools
import math
import statistics
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int8, UInt32

from eggroll.perturbation.layout import Layout


Noise = Literal["rademacher", "gaussian"]  # of floating-point weights


class Distribution(NamedTuple):
    """A symmetric distribution of int8 values.

    Attributes:
        bits: random bits a value costs.
        decode: turns words into values, and complemented words into minus those.
        translate: makes, of random words, those that `decode` takes; None where it
            takes random ones. It is done once for a pair, before its members' are made.
        table: makes the table of the 2^bits equally likely values; None for signs.
    """

    bits: int
    decode: Callable[[UInt32[Array, "members words"]], Int8[Array, "members values"]]
    translate: (
        Callable[[UInt32[Array, "pairs words"]], UInt32[Array, "pairs words"]] | None
    ) = None
    table: Callable[[], Int8[np.ndarray, " slices"]] | None = None


# Decoders end in an operation on their result's own shape, if need be one that changes
# nothing: a reshape behind them would be taken into the fused network that uses the
# values, which runs at half the speed then (XLA's CPU backend).


def _signs(words: UInt32[Array, "members words"]) -> Int8[Array, "members values"]:
    """Unpacks each bit into -1 or +1."""
    lane = jnp.arange(32 * words.shape[1], dtype=jnp.int32)[None] & 31
    copies = jnp.repeat(words.astype(jnp.int32), 32, axis=1)
    return (((copies << (31 - lane)) >> 31) | 1).astype(jnp.int8)


def _looked_up(
    table: Callable[[], Int8[np.ndarray, " 65536"]],
    words: UInt32[Array, "members words"],
) -> Int8[Array, "members values"]:
    """Looks each half of a word up in a table of quantiles."""
    index = lax.bitcast_convert_type(words, jnp.uint16).reshape(words.shape[0], -1)
    values = jnp.asarray(table()).at[index].get(mode="promise_in_bounds")
    nothing = jnp.arange(values.shape[1], dtype=jnp.int32)[None] >> 31
    return values ^ nothing.astype(jnp.int8)


def _bytes_looked_up(
    table: Callable[[], Int8[np.ndarray, " 256"]], words: UInt32[Array, "pairs words"]
) -> UInt32[Array, "pairs words"]:
    """Puts half of what a table of odd values has, rounded down, for each byte.

    The complement of x is -x - 1, and of 2x + 1 that makes the negative.
    """
    index = lax.bitcast_convert_type(words, jnp.uint8)
    halves = jnp.asarray(table() >> 1).at[index].get(mode="promise_in_bounds")
    return lax.bitcast_convert_type(halves, jnp.uint32)


def _odd(words: UInt32[Array, "members words"]) -> Int8[Array, "members values"]:
    """Unpacks each byte x into 2x + 1."""
    lane = jnp.arange(4 * words.shape[1], dtype=jnp.int32)[None] & 3
    copies = jnp.repeat(words.astype(jnp.int32), 4, axis=1)
    return (((copies << (24 - 8 * lane)) >> 23) | 1).astype(jnp.int8)


@functools.cache
def normal_quantiles(std: float) -> Int8[np.ndarray, " 65536"]:
    """The int8 values of 2^16 equally likely slices of N(0, std²): symmetric."""
    half = np.clip(np.rint(_upper_quantiles(std)), -127, 127).astype(np.int8)
    return np.concatenate([-half[::-1], half])


@functools.cache
def truncated_quantiles(std: float) -> Int8[np.ndarray, " 65536"]:
    """Like `normal_quantiles`, but truncated towards zero: a twentieth are zeros."""
    half = np.clip(np.trunc(_upper_quantiles(std)), -127, 127).astype(np.int8)
    return np.concatenate([-half[::-1], half])


@functools.cache
def _upper_quantiles(std: float) -> Float[np.ndarray, " 32768"]:
    normal = statistics.NormalDist(0.0, std)
    return np.array([normal.inv_cdf((i + 0.5) / 2**16) for i in range(2**15, 2**16)])


@functools.cache
def normal_slices(std: float) -> Int8[np.ndarray, " 256"]:
    """Odd int8 values of 2^8 equally likely slices of N(0, std²): symmetric.

    Each is a slice's root mean square, its share of std², rounded.
    """
    normal = statistics.NormalDist()
    ends = np.array([normal.inv_cdf(i / 256) for i in range(128, 256)])
    # d(z φ(z)) = (1 - z²) φ(z) dz, and beyond the last of the ends z φ(z) goes to zero.
    above = np.append(ends * np.exp(-(ends**2) / 2) / math.sqrt(2 * math.pi), 0.0)
    exact = std * np.sqrt(1 - 256 * np.diff(above))
    half = (2 * np.floor(exact / 2) + 1).astype(np.int8)
    return np.concatenate([-half[::-1], half])


# Float weights: 2^8 slices reach 3 standard deviations, in steps of a twentieth, with a
# kurtosis of 2.96. (Of 2^16 slices, which reach 4.3, a value takes twice as long.)
GAUSSIAN_STD = 40.0
# int8 weights, in which 16 stands for 1.0
INTEGER_STD = 16.0


@functools.cache
def std(noise: str) -> float:
    """Returns the standard deviation of the int8 values of a distribution."""
    if (table := DISTRIBUTIONS[noise].table) is None:
        return 1.0
    return float(np.sqrt(np.mean(table().astype(np.float64) ** 2)))


def unit_scale(layout: Layout, noise: str) -> float:
    """Returns what makes the product of a leaf's factors have variance one.

    1/(√r s²) for a low-rank leaf whose factors have entries of standard deviation s;
    1/s for a full-rank one.
    """
    entries = std(noise) ** len(layout.factor_shapes)
    return 1.0 / (math.sqrt(layout.rank) * entries)


def _quantiles(function: Callable, std: float) -> Distribution:
    table = functools.partial(function, std)
    return Distribution(16, functools.partial(_looked_up, table), table=table)


def _slices(std: float) -> Distribution:
    table = functools.partial(normal_slices, std)
    return Distribution(8, _odd, functools.partial(_bytes_looked_up, table), table)


DISTRIBUTIONS = {
    "rademacher": Distribution(1, _signs),
    "gaussian": _slices(GAUSSIAN_STD),
    # For integer weights, which cannot be scaled by a fraction of what was drawn:
    "int8_gaussian": _quantiles(normal_quantiles, INTEGER_STD),
    "int8_truncated": _quantiles(truncated_quantiles, INTEGER_STD),
}
