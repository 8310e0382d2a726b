"""Float language models, to set beside EGG: a GRU and a pre-LN Transformer.

Both are Flax modules of one sequence: `(state, tokens) -> (state, logits)`, with
natural logarithms of unnormalised probabilities as logits. `jax.vmap` batches them.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Integer


class Feedforward(nnx.Module):
    """Two linear maps with a GELU in between, four times as wide inside."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.xavier_uniform()
        self.expand = nnx.Linear(width, 4 * width, kernel_init=init, rngs=rngs)
        self.contract = nnx.Linear(4 * width, width, kernel_init=init, rngs=rngs)

    def __call__(self, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
        return self.contract(nnx.gelu(self.expand(x)))


class RecurrentBlock(nnx.Module):
    """The block of EGG in floats: GRU and MLP, each behind a norm and a residual."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm_gru = nnx.LayerNorm(width, rngs=rngs)
        self.gru = nnx.GRUCell(width, width, rngs=rngs)
        self.norm_mlp = nnx.LayerNorm(width, rngs=rngs)
        self.mlp = Feedforward(width, rngs=rngs)

    def __call__(
        self, state: Float[Array, " width"], y: Float[Array, " width"]
    ) -> tuple[Float[Array, " width"], Float[Array, " width"]]:
        state, out = self.gru(state, self.norm_gru(y))
        y = y + out
        return state, y + self.mlp(self.norm_mlp(y))


class RecurrentLanguageModel(nnx.Module):
    """EGG's architecture in floats, with a standard GRU and layer norms."""

    def __init__(self, layers: int, width: int, vocabulary: int, *, rngs: nnx.Rngs):
        """Draw the weights.

        Args:
            layers: number of blocks.
            width: of the residual stream and of the state.
            vocabulary: number of tokens.
            rngs: the random streams.
        """
        self.embedding = nnx.Embed(vocabulary, width, rngs=rngs)
        self.blocks = nnx.List(
            [RecurrentBlock(width, rngs=rngs) for _ in range(layers)]
        )
        self.norm_out = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, vocabulary, use_bias=False, rngs=rngs)
        self.width = width

    def initial_state(self) -> Float[Array, "layers width"]:
        return jnp.zeros((len(self.blocks), self.width))

    def __call__(
        self, state: Float[Array, "layers width"], tokens: Integer[Array, " tokens"]
    ) -> tuple[Float[Array, "layers width"], Float[Array, "tokens vocabulary"]]:
        def step(state, token):
            state = jnp.where(token == 0, 0.0, state)  # a document starts
            y, after = self.embedding(token.astype(jnp.int32)), []
            for block, one in zip(self.blocks, state, strict=True):
                one, y = block(one, y)
                after.append(one)
            return jnp.stack(after), self.head(self.norm_out(y))

        return lax.scan(step, state, tokens)


class AttentionBlock(nnx.Module):
    """Causal self-attention and MLP, each behind a norm and a residual."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.norm_attention = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            heads,
            width,
            kernel_init=nnx.initializers.xavier_uniform(),
            decode=False,
            rngs=rngs,
        )
        self.norm_mlp = nnx.LayerNorm(width, rngs=rngs)
        self.mlp = Feedforward(width, rngs=rngs)

    def __call__(self, y: Float[Array, "tokens width"]) -> Float[Array, "tokens width"]:
        mask = nnx.make_causal_mask(jnp.ones(y.shape[0]))
        y = y + self.attention(self.norm_attention(y), mask=mask)
        return y + self.mlp(self.norm_mlp(y))


class TransformerLanguageModel(nnx.Module):
    """A pre-LN Transformer with learned positions; it sees one window and no state."""

    def __init__(
        self,
        layers: int,
        width: int,
        vocabulary: int,
        *,
        context: int = 100,
        rngs: nnx.Rngs,
    ):
        """Draw the weights.

        Args:
            layers: number of blocks.
            width: of the residual stream; heads are 64 wide, or all of it if narrower.
            vocabulary: number of tokens.
            context: the most tokens of one window.
            rngs: the random streams.
        """
        heads = max(1, width // 64)
        self.embedding = nnx.Embed(vocabulary, width, rngs=rngs)
        self.positions = nnx.Embed(context, width, rngs=rngs)
        self.blocks = nnx.List(
            [AttentionBlock(width, heads, rngs=rngs) for _ in range(layers)]
        )
        self.norm_out = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, vocabulary, use_bias=False, rngs=rngs)

    def initial_state(self) -> tuple:
        return ()

    def __call__(
        self, state: tuple, tokens: Integer[Array, " tokens"]
    ) -> tuple[tuple, Float[Array, "tokens vocabulary"]]:
        y = self.embedding(tokens.astype(jnp.int32))
        y = y + self.positions(jnp.arange(tokens.shape[0]))
        for block in self.blocks:
            y = block(y)
        return state, self.head(self.norm_out(y))


def log_probabilities(
    logits: Float[Array, "tokens vocabulary"], targets: Integer[Array, " tokens"]
) -> Float[Array, " tokens"]:
    """Returns log2 of the probability of each target."""
    chosen = jnp.take_along_axis(
        jax.nn.log_softmax(logits), targets.astype(jnp.int32)[:, None], axis=1
    )
    return chosen[:, 0] / jnp.log(2.0)
