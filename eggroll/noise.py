"""Where noise comes from: a function of key, leaf and pair, and of nothing else.

The numbers are counter-based: word w of leaf l for pair p of a generation is
Threefry-2x32 of the counter (p, w) under a key folded from (base key, generation, hash
of the leaf's path). So they are the same for any chunking, `vmap`, sharding and device
count, and for a leaf added elsewhere; nothing is ever stored. (The generator is written
out here, as one fused elementwise expression gives two words a call, several times the
rate of `jax.random.bits` mapped over keys.)

Factors are int8 and exact on every platform: small to keep and to move, and converted
where they are used. What they are worth in standard deviations is `std(noise)`.
"""

import functools
import math
import statistics
import zlib
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Int8, PRNGKeyArray, UInt32

from eggroll.plan import Layout


Noise = Literal["rademacher", "gaussian"]


class Distribution(NamedTuple):
    """A symmetric distribution of int8 values.

    Attributes:
        bits: random bits a value costs.
        decode: turns words into values.
        table: makes the table of the 2^16 equally likely values; None for signs.
    """

    bits: int
    decode: Callable[[UInt32[Array, "members words"]], Int8[Array, "members values"]]
    table: Callable[[], Int8[np.ndarray, " 65536"]] | None = None


def threefry2x32(
    key: tuple[UInt32[Array, "..."], UInt32[Array, "..."]],
    counter: tuple[UInt32[Array, "..."], UInt32[Array, "..."]],
) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
    """The counter-based generator Threefry-2x32 with 20 rounds, elementwise.

    References:
        Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011,
        https://doi.org/10.1145/2063384.2063405
    """
    words = (*key, key[0] ^ key[1] ^ np.uint32(0x1BD11BDA))
    x, y = counter[0] + words[0], counter[1] + words[1]
    for block in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[block % 2]:
            x = x + y
            y = x ^ ((y << np.uint32(turn)) | (y >> np.uint32(32 - turn)))
        x = x + words[(block + 1) % 3]
        y = y + words[(block + 2) % 3] + np.uint32(block + 1)
    return x, y


def generation_key(
    key: PRNGKeyArray, step: Int[Array, ""] | int, reuse: int = 1
) -> PRNGKeyArray:
    """Returns the key of a generation's noise: the same for `reuse` steps in a row."""
    return jax.random.fold_in(_fold_name(key, "noise"), step // reuse)


def base_key(key: PRNGKeyArray) -> PRNGKeyArray:
    """Returns a Threefry key for a key of any kind.

    What a key of another kind draws under `vmap` depends on what is drawn beside it.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    words = jax.random.key_data(key)
    threefry = jax.random.wrap_key_data(words[:2], impl="threefry2x32")
    return functools.reduce(jax.random.fold_in, words[2:], threefry)


def member_key(
    key: PRNGKeyArray, step: Int[Array, ""] | int, pair: Int[Array, ""]
) -> PRNGKeyArray:
    """Returns the key handed to a fitness function: the same for both of a pair."""
    of_step = jax.random.fold_in(_fold_name(key, "fitness"), step)
    return jax.random.fold_in(of_step, pair)


def draw(
    layout: Layout,
    key: PRNGKeyArray,
    pairs: Int[Array, " pairs"],
    noise: str,
    repeat: int = 1,
) -> tuple[Int8[Array, "members ..."], ...]:
    """Draws the factors of one leaf for some pairs.

    Args:
        layout: of the leaf.
        key: of the generation.
        pairs: which pairs.
        noise: the distribution of each value.
        repeat: how many members in a row share a pair's draw.

    Returns:
        The factors: `repeat` copies a pair, then the shapes of `layout.factor_shapes`.
    """
    distribution = DISTRIBUTIONS[noise]
    leaf_key = _key_words(_fold_name(key, layout.path))
    factors, first = [], 0
    for shape in layout.factor_shapes:
        size = math.prod(shape)
        n_words = math.ceil(size * distribution.bits / 64) * 2
        words = _words(leaf_key, pairs, first, n_words, repeat)
        values = distribution.decode(words)[:, :size]
        factors.append(values.reshape(-1, *shape))
        first += n_words // 2
    return tuple(factors)


def _words(
    key: UInt32[Array, "2"],
    pairs: Int[Array, " pairs"],
    first: int,
    n_words: int,
    repeat: int,
) -> UInt32[Array, "members words"]:
    """Returns random words for each pair: counters `first`, `first` + 1, ...

    The barrier keeps the compiler from running the generator once a consumer.
    """
    shape = (n_words // 2, pairs.shape[0])
    counters = jnp.arange(first, first + shape[0], dtype=jnp.uint32)
    wide = lambda x: jnp.broadcast_to(x, shape)  # noqa: E731
    halves = threefry2x32(
        (wide(key[0]), wide(key[1])),
        (wide(pairs.astype(jnp.uint32)), wide(counters[:, None])),
    )
    words = jnp.concatenate(lax.optimization_barrier(halves)).T
    return lax.optimization_barrier(jnp.repeat(words, repeat, axis=0))


def _fold_name(key: PRNGKeyArray, name: str) -> PRNGKeyArray:
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def _key_words(key: PRNGKeyArray) -> UInt32[Array, "2"]:
    """Two words from a key of any kind."""
    return jax.random.bits(key, (2,), jnp.uint32)


def _signs(words: UInt32[Array, "members words"]) -> Int8[Array, "members values"]:
    """Unpacks each bit into -1 or +1."""
    bits = (words[..., None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
    return (1 - 2 * bits.astype(jnp.int8)).reshape(words.shape[0], -1)


def _looked_up(table: Callable[[], Int8[np.ndarray, " 65536"]]) -> Callable:
    """Makes a decoder that looks each half of a word up in a table of quantiles."""

    def decode(words: UInt32[Array, "members words"]) -> Int8[Array, "members values"]:
        halves = jnp.concatenate([words & 0xFFFF, words >> 16], axis=-1)
        return jnp.asarray(table())[halves.astype(jnp.int32)]

    return decode


@functools.cache
def normal_quantiles(std: float) -> Int8[np.ndarray, " 65536"]:
    """The int8 values of 2^16 equally likely slices of N(0, std²), exactly symmetric."""
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


# float weights: 127 / 29 = 4.4 standard deviations, and 2^16 slices reach 4.3
GAUSSIAN_STD = 29.0
# int8 weights, in which 16 stands for 1.0
INTEGER_STD = 16.0


@functools.cache
def std(noise: str) -> float:
    """Returns the standard deviation of the int8 values of a distribution."""
    if (table := DISTRIBUTIONS[noise].table) is None:
        return 1.0
    return float(np.sqrt(np.mean(table().astype(np.float64) ** 2)))


def _quantiles(function: Callable, std: float) -> Distribution:
    table = functools.partial(function, std)
    return Distribution(16, _looked_up(table), table)


DISTRIBUTIONS = {
    "rademacher": Distribution(1, _signs),
    "gaussian": _quantiles(normal_quantiles, GAUSSIAN_STD),
    # For integer weights, which cannot be scaled by a fraction of what was drawn:
    "int8_gaussian": _quantiles(normal_quantiles, INTEGER_STD),
    "int8_truncated": _quantiles(truncated_quantiles, INTEGER_STD),
}
