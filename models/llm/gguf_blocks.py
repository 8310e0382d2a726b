"""How GGUF stores numbers: plain, or as blocks of small integers with scales.

The layouts are those of the format's documentation (github.com/ggml-org/ggml,
docs/gguf.md and the comments of ggml-common.h). With d a block's scale, m its
minimum and q its integers, a weight is

    Q8_0   d·q              q in -128..127      32 weights in 34 bytes
    Q4_0   d·(q - 8)        q in 0..15          32 weights in 18 bytes
    Q4_1   d·q + m          q in 0..15          32 weights in 20 bytes
    Q5_0   d·(q - 16)       q in 0..31          32 weights in 22 bytes
    Q5_1   d·q + m          q in 0..31          32 weights in 24 bytes

where byte j of a four-bit block holds weight j in its low half and weight j + 16 in
its high half, and bit j of a five-bit block's `high` the fifth bit of weight j. Blocks
of 256 weights have integers for scales (s) and minima (t), too, of 32 weights each
(Q6_K: of 16 each):

    Q4_K   d·s·q - m·t      q in 0..15          256 weights in 144 bytes
    Q5_K   d·s·q - m·t      q in 0..31          256 weights in 176 bytes
    Q6_K   d·s·(q - 32)     q in 0..63          256 weights in 210 bytes
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Shaped, UInt8


Blocks = Shaped[np.ndarray, " blocks"]
Weights = Float32[np.ndarray, "blocks weights"]


def plain(numbers: Blocks) -> Weights:
    """Numbers that stand for themselves."""
    return numbers.astype(np.float32)[:, None]


def bfloat16(numbers: Blocks) -> Weights:
    """The upper halves of float32 numbers."""
    return (numbers.astype(np.uint32) << 16).view(np.float32)[:, None]


def q8_0(blocks: Blocks) -> Weights:
    """Eight bits and a scale."""
    return scale(blocks, "d") * blocks["q"]


def q4_0(blocks: Blocks) -> Weights:
    """Four bits around 8 and a scale."""
    return scale(blocks, "d") * (halves(blocks["q"]).astype(np.float32) - 8)


def q4_1(blocks: Blocks) -> Weights:
    """Four bits, a scale and a minimum."""
    return scale(blocks, "d") * halves(blocks["q"]) + scale(blocks, "m")


def q5_0(blocks: Blocks) -> Weights:
    """Five bits around 16 and a scale."""
    return scale(blocks, "d") * (fives(blocks).astype(np.float32) - 16)


def q5_1(blocks: Blocks) -> Weights:
    """Five bits, a scale and a minimum."""
    return scale(blocks, "d") * fives(blocks) + scale(blocks, "m")


def q4_k(blocks: Blocks) -> Weights:
    """Four bits, eight scales and minima of six bits, and a scale of each of these."""
    return scaled_twice(blocks, quarters(blocks))


def q5_k(blocks: Blocks) -> Weights:
    """As Q4_K, with a fifth bit: bit i of byte j is that of weight 32·i + j."""
    fifth = blocks["high"][:, None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return scaled_twice(blocks, quarters(blocks) | fifth << 4)


def q6_k(blocks: Blocks) -> Weights:
    """Six bits around 32, sixteen scales of eight bits, and a scale of these.

    Either half of the weights has 64 bytes of low bits, whose low halves come first,
    and 32 of high bits, two for a weight of each quarter.
    """
    low = blocks["q"].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    twos = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = blocks["high"].reshape(-1, 2, 1, 32) >> twos & 3
    q = (low | high << 4).astype(np.float32).reshape(-1, 16, 16) - 32
    s = scale(blocks, "d") * blocks["s"]
    return (s[..., None] * q).reshape(-1, 256)


def scaled_twice(blocks: Blocks, q: UInt8[np.ndarray, "blocks 8 32"]) -> Weights:
    """Applies scales and minima of six bits each, packed into twelve bytes.

    The first four of both stand in the low bits of bytes 0..3 and 4..7; of the last
    four, the low halves in bytes 8..11 and the two bits above in those of the first.
    """
    first, second, third = np.split(blocks["s"], 3, axis=1)
    s = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=1)
    t = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=1)
    s, t = scale(blocks, "d") * s, scale(blocks, "m") * t
    return (s[..., None] * q - t[..., None]).reshape(-1, 256)


def quarters(blocks: Blocks) -> UInt8[np.ndarray, "blocks 8 32"]:
    """Four bits each: 32 bytes' low halves, their high halves, the next 32 bytes'."""
    packed = blocks["q"].reshape(-1, 4, 1, 32)
    return np.concatenate([packed & 15, packed >> 4], axis=2).reshape(-1, 8, 32)


def fives(blocks: Blocks) -> UInt8[np.ndarray, "blocks 32"]:
    """Five bits each, the fifth from 32 bits in a row."""
    fifth = np.unpackbits(blocks["high"], axis=1, bitorder="little")
    return halves(blocks["q"]) | fifth << 4


def scale(blocks: Blocks, name: str) -> Float32[np.ndarray, "blocks 1"]:
    """One number of each block."""
    return blocks[name].astype(np.float32)[:, None]


def halves(packed: UInt8[np.ndarray, "blocks 16"]) -> UInt8[np.ndarray, "blocks 32"]:
    """The low halves of the bytes, then the high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


class Storage(NamedTuple):
    """One type of tensor: its name, block layout, weights a block, and decoder."""

    name: str
    layout: np.dtype
    weights: int
    decode: Callable[[Blocks], Weights]


def block(*fields: str) -> np.dtype:
    """The layout of blocks: names, each with its type and how many."""
    pairs = [one.split(":") for one in fields]
    return np.dtype([(name, kind) for name, kind in pairs])


# By the numbers that files give them.
STORAGES = {
    0: Storage("F32", np.dtype("<f4"), 1, plain),
    1: Storage("F16", np.dtype("<f2"), 1, plain),
    2: Storage("Q4_0", block("d:<f2", "q:16u1"), 32, q4_0),
    3: Storage("Q4_1", block("d:<f2", "m:<f2", "q:16u1"), 32, q4_1),
    6: Storage("Q5_0", block("d:<f2", "high:4u1", "q:16u1"), 32, q5_0),
    7: Storage("Q5_1", block("d:<f2", "m:<f2", "high:4u1", "q:16u1"), 32, q5_1),
    8: Storage("Q8_0", block("d:<f2", "q:32i1"), 32, q8_0),
    12: Storage("Q4_K", block("d:<f2", "m:<f2", "s:12u1", "q:128u1"), 256, q4_k),
    13: Storage(
        "Q5_K", block("d:<f2", "m:<f2", "s:12u1", "high:32u1", "q:128u1"), 256, q5_k
    ),
    14: Storage("Q6_K", block("q:128u1", "high:64u1", "s:16i1", "d:<f2"), 256, q6_k),
    30: Storage("BF16", np.dtype("<u2"), 1, bfloat16),
}
# What is not read, for messages.
OTHERS = {
    **{9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS"},
    **{18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S"},
    **{23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64"},
    **{29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"},
}


def dequantise(
    raw: UInt8[np.ndarray, " bytes"], storage: Storage, shape: tuple[int, ...]
) -> Float32[np.ndarray, "..."]:
    """The numbers that a tensor's bytes stand for.

    Args:
        raw: all bytes of the tensor, whole blocks.
        storage: how they are to be read.
        shape: of the result, in C order.
    """
    return storage.decode(raw.view(storage.layout)).reshape(shape)
