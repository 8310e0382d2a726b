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
        table: makes the table of the 2^bits equally likely values; None for signs.
    """

    bits: int
    decode: Callable[[UInt32[Array, "members words"]], Int8[Array, "members values"]]
    table: Callable[[], Int8[np.ndarray, " slices"]] | None = None


# Decoders end in an operation on their result's own shape, if need be one that changes
# nothing: a reshape behind them would be taken into the fused network that uses the
# values, which runs at half the speed then (XLA's CPU backend).


def _signs(words: UInt32[Array, "members words"]) -> Int8[Array, "members values"]:
    """Unpacks each bit into -1 or +1."""
    lane = jnp.arange(32 * words.shape[1], dtype=jnp.int32) & 31
    copies = jnp.repeat(words.astype(jnp.int32), 32, axis=1)
    return (((copies << (31 - lane)) >> 31) | 1).astype(jnp.int8)


def _looked_up(bits: int, table: Callable[[], Int8[np.ndarray, " slices"]]) -> Callable:
    """Makes a decoder that looks each so many bits up in a table of quantiles."""
    kind = {8: jnp.uint8, 16: jnp.uint16}[bits]

    def decode(words: UInt32[Array, "members words"]) -> Int8[Array, "members values"]:
        index = lax.bitcast_convert_type(words, kind).reshape(words.shape[0], -1)
        values = jnp.asarray(table()).at[index].get(mode="promise_in_bounds")
        nothing = jnp.arange(values.shape[1], dtype=jnp.int32) >> 31
        return values ^ nothing.astype(jnp.int8)

    return decode


@functools.cache
def normal_quantiles(bits: int, std: float) -> Int8[np.ndarray, " slices"]:
    """The int8 values of 2^bits equally likely slices of N(0, std²): symmetric."""
    half = np.clip(np.rint(_upper_quantiles(bits, std)), -127, 127).astype(np.int8)
    return np.concatenate([-half[::-1], half])


@functools.cache
def normal_slices(bits: int, std: float) -> Int8[np.ndarray, " slices"]:
    """Like `normal_quantiles`, but each slice's root mean square: its share of std²."""
    normal, count = statistics.NormalDist(), 2**bits
    ends = np.array([normal.inv_cdf(i / count) for i in range(count // 2, count)])
    # d(z φ(z)) = (1 - z²) φ(z) dz, and beyond the last of the ends z φ(z) goes to zero.
    above = np.append(ends * np.exp(-(ends**2) / 2) / math.sqrt(2 * math.pi), 0.0)
    half = np.rint(std * np.sqrt(1 - count * np.diff(above))).astype(np.int8)
    return np.concatenate([-half[::-1], half])


@functools.cache
def truncated_quantiles(bits: int, std: float) -> Int8[np.ndarray, " slices"]:
    """Like `normal_quantiles`, but truncated towards zero: a twentieth are zeros."""
    half = np.clip(np.trunc(_upper_quantiles(bits, std)), -127, 127).astype(np.int8)
    return np.concatenate([-half[::-1], half])


@functools.cache
def _upper_quantiles(bits: int, std: float) -> Float[np.ndarray, " half"]:
    normal, count = statistics.NormalDist(0.0, std), 2**bits
    return np.array(
        [normal.inv_cdf((i + 0.5) / count) for i in range(count // 2, count)]
    )


# Float weights: 2^8 slices reach 3 standard deviations, in steps of a fortieth, with a
# kurtosis of 2.97. (Of 2^16 slices, which reach 4.3, a value takes twice as long.)
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


def _quantiles(function: Callable, bits: int, std: float) -> Distribution:
    table = functools.partial(function, bits, std)
    return Distribution(bits, _looked_up(bits, table), table)


DISTRIBUTIONS = {
    "rademacher": Distribution(1, _signs),
    "gaussian": _quantiles(normal_slices, 8, GAUSSIAN_STD),
    # For integer weights, which cannot be scaled by a fraction of what was drawn:
    "int8_gaussian": _quantiles(normal_quantiles, 16, INTEGER_STD),
    "int8_truncated": _quantiles(truncated_quantiles, 16, INTEGER_STD),
}
