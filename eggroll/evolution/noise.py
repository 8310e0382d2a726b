"""Where noise comes from: a function of key, leaf and pair, and of nothing else.

The numbers are counter-based: word w of leaf l for pair p of a generation is
Threefry-2x32 of the counter (p, w) under a key folded from (base key, generation, hash
of the leaf's path). So they are the same for any chunking, `vmap`, sharding and device
count, and for a leaf added elsewhere; nothing is ever stored. (The generator is written
out here, as one fused elementwise expression gives two words a call, several times the
rate of `jax.random.bits` mapped over keys.)

Factors are int8 and exact on every platform: small to keep and to move, and converted
where they are used.
"""

import functools
import math
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, Int8, Num, PRNGKeyArray, Shaped, UInt32

from eggroll.evolution import kernels
from eggroll.evolution.distributions import DISTRIBUTIONS, Distribution
from eggroll.perturbation.layout import Layout


SCHEME = 2  # counts the changes of the noise that a given key yields
# So many leaves of a shape are decoded in a loop, which keeps the values of them all:
# where these are so few.
_MANY, _FEW_VALUES = 8, 2**14
_BLOCKS = 8  # of pairs, for which the generator runs in turn: they stay in cache


@jax.jit  # so that it is lowered once, however often it is called
def threefry2x32(
    key: tuple[UInt32[Any, "..."], UInt32[Any, "..."]],
    counter: tuple[UInt32[Any, "..."], UInt32[Any, "..."]],
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
    layouts: Sequence[Layout],
    key: PRNGKeyArray,
    pairs: Int[Array, " pairs"],
    noise: str,
    repeat: int = 1,
    sign: Num[Array, " members"] | None = None,
) -> list[tuple[Int8[Array, "members ..."], ...]]:
    """Draws the factors of some leaves.

    The words of all leaves are made at once and kept, then decoded leaf by leaf. (Made
    leaf by leaf, the compiler fuses the generator into what uses each value, and the
    same noise takes seven times as long.)

    Args:
        layouts: of the leaves.
        key: of the generation.
        pairs: which pairs.
        noise: the distribution of each value.
        repeat: how many members in a row share a pair's draw.
        sign: where it is negative, a member's first factor of each leaf is mirrored.

    Returns:
        The factors of each leaf, none for a frozen one: a dimension of members
        (`repeat` a pair), then the shapes of `Layout.factor_shapes`.
    """
    return _draw(tuple(layouts), key, pairs, noise, repeat, sign)


@functools.partial(jax.jit, static_argnames=("layouts", "noise", "repeat"))
def _draw(
    layouts: tuple[Layout, ...],
    key: PRNGKeyArray,
    pairs: Int[Array, " pairs"],
    noise: str,
    repeat: int,
    sign: Num[Array, " members"] | None,
) -> list[tuple[Int8[Array, "members ..."], ...]]:
    distribution = DISTRIBUTIONS[noise]
    columns = [_columns(x.factor_shapes, distribution.bits) for x in layouts]
    words = _words(_leaf_keys(key, layouts), columns, pairs, distribution)
    if repeat > 1 or sign is not None:
        sign = jnp.ones(pairs.shape[0] * repeat) if sign is None else sign
        alone = [len(layout.factor_shapes) == 1 for layout in layouts]
        words = _for_members(words, repeat, sign, np.repeat(alone, columns))
    first, second = words
    return _decoded((first, second), np.cumsum(columns) - columns, layouts, noise)


def _decoded(
    words: Sequence[UInt32[Array, "members columns"]],
    starts: Int[np.ndarray, " leaves"],
    layouts: Sequence[Layout],
    noise: str,
) -> list[tuple[Int8[Array, "members ..."], ...]]:
    """Turns each leaf's words, from a column on, into its factors.

    Where there are many leaves of a shape it is done in a loop over them: written out
    for each, it is half of what there is to compile.
    """
    alike: dict[tuple, list[int]] = {}
    for leaf, layout in enumerate(layouts):
        alike.setdefault(layout.factor_shapes, []).append(leaf)
    groups = [
        (shapes, leaves)
        for shapes, leaves in alike.items()
        if len(leaves) >= _MANY and 0 < sum(map(math.prod, shapes)) <= _FEW_VALUES
    ]
    place = dict(enumerate(starts)) | {
        leaf: number for _, leaves in groups for number, leaf in enumerate(leaves)
    }
    known = sorted({*place.values()})
    hidden = dict(zip(known, kernels.hidden(known), strict=True))
    taken = {}
    for shapes, leaves in groups:
        take = lambda start, shapes=shapes: _taken(*words, start, shapes, noise)
        stacks = kernels.in_turn(take, jnp.asarray(starts[leaves], jnp.uint32))
        taken |= {leaf: _nth(stacks, hidden[place[leaf]]) for leaf in leaves}
    return [
        taken.get(leaf)
        or _taken(*words, hidden[place[leaf]], layout.factor_shapes, noise)
        for leaf, layout in enumerate(layouts)
    ]


@jax.jit  # so that it is lowered once, however often it is called
def _nth(
    stacks: Sequence[Shaped[Array, "leaves ..."]], number: UInt32[Array, ""]
) -> tuple[Shaped[Array, "..."], ...]:
    return tuple(lax.dynamic_index_in_dim(x, number, keepdims=False) for x in stacks)


@functools.partial(jax.jit, static_argnames=("shapes", "noise"))  # traced once
def _taken(
    first: UInt32[Array, "members columns"],
    second: UInt32[Array, "members columns"],
    start: UInt32[Array, ""],
    shapes: tuple[tuple[int, ...], ...],
    noise: str,
) -> tuple[Int8[Array, "members ..."], ...]:
    """Takes a leaf's words, two of each call, and turns them into its factors.

    They make one factor each, or both the only one.
    """
    distribution = DISTRIBUTIONS[noise]
    size = _columns(shapes, distribution.bits)
    zero = np.uint32(0)
    words = [
        lax.dynamic_slice(half, (zero, start), (half.shape[0], size))
        for half in (first, second)
    ]
    if len(shapes) == 1:
        words = [jnp.concatenate(words, axis=1)]
    factors = []
    for shape, part in zip(shapes, words, strict=False):
        size = math.prod(shape)
        values = distribution.decode(
            part[:, : math.ceil(size * distribution.bits / 32)]
        )
        factors.append(values[:, :size].reshape(-1, *shape))
    return tuple(factors)


def _columns(shapes: Sequence[tuple[int, ...]], bits: int) -> int:
    """How many calls of the generator, of two words each, a leaf's noise takes."""
    words = [math.ceil(math.prod(s) * bits / 32) for s in shapes]
    return math.ceil(words[0] / 2) if len(words) == 1 else max(words, default=0)


def _words(
    keys: UInt32[Array, "leaves 2"],
    columns: Sequence[int],
    pairs: Int[Array, " pairs"],
    distribution: Distribution,
) -> tuple[UInt32[Array, "pairs columns"], UInt32[Array, "pairs columns"]]:
    """Runs the generator for each pair: each leaf's key with the counters 0, 1, ...

    The results are kept: else the compiler would run the generator anew wherever a bit
    is used. (Where what is kept need not come out of a loop, the words of all pairs are
    made at once, and translated on their way.)
    """
    key = keys[np.repeat(np.arange(len(columns)), columns)].T
    counters = np.concatenate([np.arange(n, dtype=np.uint32) for n in columns])

    def block(pairs: UInt32[Array, " some"]) -> Any:
        shape = (pairs.shape[0], len(counters))
        pair, word = jnp.broadcast_to(pairs[:, None], shape), jnp.asarray(counters)
        return threefry2x32((key[:1], key[1:]), (pair, jnp.broadcast_to(word, shape)))

    count = pairs.shape[0]
    rows = -(-count // _BLOCKS)
    padded = jnp.pad(pairs.astype(jnp.uint32), (0, rows * _BLOCKS - count))
    blocks, translate = padded.reshape(_BLOCKS, rows), distribution.translate
    if translate is None:
        halves = kernels.in_turn(block, blocks)
    elif kernels.barriers_hold():
        both = lambda pairs: tuple(translate(half) for half in block(pairs))
        halves = kernels.in_turn(both, blocks)
    else:
        halves = kernels.in_turn(block, blocks)
        halves = (kernels.in_turn(translate, half) for half in halves)
    return tuple(half.reshape(-1, len(counters))[:count] for half in halves)


def _for_members(
    words: tuple[UInt32[Array, "pairs columns"], UInt32[Array, "pairs columns"]],
    repeat: int,
    sign: Num[Array, " members"],
    alone: Bool[np.ndarray, " columns"],
) -> UInt32[Array, "2 members columns"]:
    """Copies the words of a pair to its members, complemented where the sign is -1.

    The second word of a call belongs to the second factor, which is not mirrored,
    unless the leaf has one factor alone. On a CPU this is a loop over the two so that
    its results are kept: else each bit that is used would be found by way of all this
    again, which accelerators do while they wait for memory.
    """
    ones = np.uint32(0xFFFFFFFF)
    mirrored = np.stack([np.full(alone.shape, ones), np.where(alone, ones, 0)])
    flip = jnp.where(sign < 0, ones, 0)[:, None]

    def expand(half: Any) -> UInt32[Array, "members columns"]:
        words, mask = half
        return jnp.repeat(words, repeat, axis=0) ^ (flip & mask[None])

    both = (jnp.stack(words), mirrored.astype(np.uint32))
    return jax.vmap(expand)(both) if kernels.barriers_hold() else lax.map(expand, both)


def _fold_name(key: PRNGKeyArray, name: str) -> PRNGKeyArray:
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def _leaf_keys(
    key: PRNGKeyArray, layouts: Sequence[Layout]
) -> UInt32[Array, "leaves 2"]:
    """The Threefry keys of the leaves' noise, from the key of a generation."""
    names = [zlib.crc32(x.path.encode()) for x in layouts]
    if len({*names}) < len(names):
        same = [
            x.path for x, n in zip(layouts, names, strict=True) if names.count(n) > 1
        ]
        raise ValueError(
            f"the leaves {', '.join(same)} would share their noise: their paths have "
            f"the same checksum; rename one"
        )
    # Two words of the leaf's own stream, each folded from a call of the generator.
    # (All of a call's arguments have the shape of the next one's: it is lowered once.)
    name = np.repeat(np.array(names, np.uint32), 2)
    zero, call = np.zeros_like(name), np.arange(len(name), dtype=np.uint32) % 2
    first, second = (jnp.broadcast_to(x, name.shape) for x in jax.random.key_data(key))
    leaf = threefry2x32((first, second), (zero, name))
    x, y = threefry2x32(leaf, (zero, call))
    return (x ^ y).reshape(-1, 2)
