"""What a language model offers: pure functions of its parameters, on rows of tokens.

A model is a frozen dataclass that holds its configuration and no array: two of equal
configuration are equal, and either is a static argument of `jax.jit`. Parameters are a
dict of arrays, weights as (inputs, outputs), those of all layers stacked on a leading
dimension. They compute in the dtype of the parameters; softmax, norms and the angles of
rotations in float32.

Rows of a batch have prompts of different lengths, padded on the right. A padding token
is known by its place alone: any token may occur anywhere.
"""

from typing import Any, Protocol

from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray


Params = Any  # a dict of arrays, nested
State = Any  # a pytree, of a type of the model's own


class Config(Protocol):
    """What everyone may ask of a model's configuration, whatever its architecture."""

    @property
    def vocabulary(self) -> int:
        """Number of tokens that the head tells apart."""
        ...

    @property
    def context(self) -> int:
        """The most tokens of prompt and completion."""
        ...

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """Each of which ends a completion."""
        ...


class LanguageModel(Protocol):
    """A causal language model, as generation and scoring need it."""

    @property
    def config(self) -> Config:
        """Sizes and options."""
        ...

    def init(self, key: PRNGKeyArray, dtype: DTypeLike = ...) -> Params:
        """Draws parameters."""
        ...

    def init_state(self, batch: int, length: int, dtype: DTypeLike = ...) -> State:
        """Returns the state of rows that have read nothing.

        Args:
            batch: number of rows.
            length: the most tokens that a row will read, padding of prompts included.
            dtype: of what the state holds, that of the parameters.
        """
        ...

    def prefill(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        lengths: Int[Array, " batch"],
        state: State,
    ) -> tuple[Float[Array, "batch vocabulary"], State]:
        """Reads the prompts, all of them at once.

        Args:
            params: of the model.
            tokens: the prompts, padded on the right with anything.
            lengths: how many tokens of each row are prompt: 1 or more.
            state: from `init_state`.

        Returns:
            The logits (float32) of what follows each row's last token, and the state.
        """
        ...

    def decode(
        self, params: Params, token: Int[Array, " batch"], state: State
    ) -> tuple[Float[Array, "batch vocabulary"], State]:
        """Reads one more token of each row; returns as `prefill` does."""
        ...

    def take(self, state: State, rows: Int[Array, " some"]) -> State:
        """Returns the state of some rows, that they go on without the others."""
        ...

    def hidden(
        self, params: Params, tokens: Int[Array, "batch length"]
    ) -> Float[Array, "batch length width"]:
        """Reads rows from the start; returns what `head` is applied to, for each token.

        Nothing follows from the padding on the right: a token sees those before it.
        """
        ...

    def head(
        self, params: Params, hidden: Float[Array, "*rows width"]
    ) -> Float[Array, "*rows vocabulary"]:
        """Returns the logits (float32) of what follows.

        The whole of `hidden` at once: callers take few rows at a time where the
        vocabulary is large.
        """
        ...
