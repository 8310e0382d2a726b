"""Rotary positions (arXiv 2104.09864), and how long contexts are reached with them.

Each head is rotated in planes of feature i and feature i + head_dim/2, as checkpoints
of Hugging Face have it.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from models.llm.config import Rope


Angles = tuple[Float[Array, "*rows 1 half"], Float[Array, "*rows 1 half"]]


def frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Returns the rotation of each pair of features, in radians a token.

    `theta^(-2i/head_dim)`. With "llama3", wavelengths above original/low are slowed by
    `factor`, those below original/high are not, and in between it goes over linearly in
    original/wavelength.
    """
    plain = rope.theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    slowed = plain / rope.factor
    if rope.kind == "none":
        return plain.astype(np.float32)
    if rope.kind == "linear":
        return slowed.astype(np.float32)
    turns = rope.original * plain / (2 * np.pi)  # within the original context
    keep = np.clip((turns - rope.low) / (rope.high - rope.low), 0, 1)
    return (keep * plain + (1 - keep) * slowed).astype(np.float32)


def angles_of(positions: Int[Array, "*rows"], rope: Rope, head_dim: int) -> Angles:
    """Returns cosines and sines (float32), for all heads of the tokens there."""
    frequency = frequencies(rope, head_dim)
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: Float[Array, "*rows heads head_dim"], angles: Angles) -> Array:
    """Rotates feature i of the first half of each head with feature i of the second."""
    cos, sin = angles
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return rotated.astype(x.dtype)
