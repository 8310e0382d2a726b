"""The sizes of an RWKV-7 model, the shapes of its parameters, and random ones."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, PRNGKeyArray


@dataclasses.dataclass(frozen=True)
class RWKV7Config:
    """The sizes of a model.

    Attributes:
        width: of the residual stream.
        layers: number of blocks.
        heads: of the time mix, each `width // heads` wide (64 as published).
        feedforward: width inside the channel mix.
        vocabulary: number of tokens.
        decay_rank: columns of w1, rows of w2.
        rate_rank: of a1 and a2.
        value_rank: of v1 and v2.
        gate_rank: of g1 and g2.
        end_tokens: each of which ends a text.
        context: the most tokens; the state has no bound, texts of training had.
        layer0_values: whether layer 0's v0, v1, v2 stand in the checkpoint.
    """

    width: int
    layers: int
    heads: int
    feedforward: int
    vocabulary: int
    decay_rank: int
    rate_rank: int
    value_rank: int
    gate_rank: int
    end_tokens: tuple[int, ...] = (0,)
    context: int = 2**31 - 1
    layer0_values: bool = False

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(
                f"the width of RWKV-7 must be a multiple of its heads, got a width of "
                f"{self.width} and {self.heads} heads"
            )

    @property
    def head_size(self) -> int:
        """Entries of a head's keys and values."""
        return self.width // self.heads


def shapes(config: RWKV7Config) -> dict:
    """Returns the shape of every parameter, as a pytree like the parameters."""
    width, inner, vocabulary = config.width, config.feedforward, config.vocabulary
    vectors = (
        "time_norm time_norm_bias x_r x_w x_k x_v x_a x_g w0 a0 v0 k_k k_a r_k "
        "head_norm head_norm_bias channel_norm channel_norm_bias x_c"
    )
    layers: dict[str, tuple[int, ...]] = dict.fromkeys(vectors.split(), (width,))
    for name, rank in (
        ("w", config.decay_rank),
        ("a", config.rate_rank),
        ("v", config.value_rank),
        ("g", config.gate_rank),
    ):
        layers |= {f"{name}1": (width, rank), f"{name}2": (rank, width)}
    layers |= dict.fromkeys(("r", "k", "v", "o"), (width, width))
    layers |= {"expand": (width, inner), "contract": (inner, width)}
    return {
        "embed": (vocabulary, width),
        "embed_norm": (width,),
        "embed_norm_bias": (width,),
        "layers": {name: (config.layers, *shape) for name, shape in layers.items()},
        "norm": (width,),
        "norm_bias": (width,),
        "head": (width, vocabulary),
    }


def init(
    config: RWKV7Config, key: PRNGKeyArray, dtype: DTypeLike = jnp.float32
) -> dict:
    """Draws parameters: a model to try things with, not the published way to train.

    Matrices are Gaussian with variance 1/inputs (the embedding's: 1) and norms the
    identity; over the channels, shifts go from none to all of the token before, and
    what is written down is kept for 2 to 400 tokens.
    """
    leaves, tree = jax.tree.flatten_with_path(
        shapes(config), is_leaf=lambda x: isinstance(x, tuple)
    )

    def one(path: tuple, shape: tuple[int, ...], key: PRNGKeyArray) -> Array:
        name = path[-1].key
        if name.startswith("x_"):
            return jnp.broadcast_to(
                jnp.linspace(0, 1, config.width, dtype=dtype), shape
            )
        if name == "w0":
            return jnp.broadcast_to(jnp.linspace(-5.5, 1, shape[1], dtype=dtype), shape)
        if name.endswith("_bias") or name in ("a0", "v0", "r_k"):
            return jnp.zeros(shape, dtype)
        if name.endswith("norm") or name in ("k_k", "k_a"):
            return jnp.ones(shape, dtype)
        scale = 1.0 if name == "embed" else shape[-2] ** -0.5
        drawn = jnp.asarray(scale, dtype) * jax.random.normal(key, shape, dtype)
        if name in ("v1", "v2") and not config.layer0_values:
            return drawn.at[0].set(0)
        return drawn

    keys = jax.random.split(key, len(leaves))
    return tree.unflatten(
        [one(path, shape, key) for (path, shape), key in zip(leaves, keys, strict=True)]
    )
