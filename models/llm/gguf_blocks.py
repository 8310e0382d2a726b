"""How GGUF stores numbers: plain, or as blocks of small integers with scales.

The layouts are those of the format's documentation (github.com/ggml-org/ggml,
docs/gguf.md and the comments of ggml-common.h). With d a block's scale, m its
minimum and q its integers, a weight is

    Q8_0   d·q              q in -128..127      32 weights in 34 bytes
    Q4_0   d·(q - 8)        q in 0..15          32 weights in 18 bytes
    Q4_1   d·q + m          q in 0..15          32 weights in 20 bytes

where byte j of a four-bit block holds weight j in its low half and weight j + 16 in
its high half.
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


STORAGES = {
    0: Storage("F32", np.dtype("<f4"), 1, plain),
    1: Storage("F16", np.dtype("<f2"), 1, plain),
    2: Storage("Q4_0", np.dtype([("d", "<f2"), ("q", "u1", 16)]), 32, q4_0),
    3: Storage(
        "Q4_1", np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)]), 32, q4_1
    ),
    8: Storage("Q8_0", np.dtype([("d", "<f2"), ("q", "i1", 32)]), 32, q8_0),
    30: Storage("BF16", np.dtype("<u2"), 1, bfloat16),
}
# What is not read, for messages.
OTHERS = {
    **{6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K"},
    **{13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS"},
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
