"""Given answers made likely, by language models: fine-tuning on examples."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from eggroll import UserError
from eggroll.config import Count
from models.llm.scoring import score
from tasks.reasoning.checkpoint import SEEN, FromCheckpoint, padded
from tasks.reasoning.rows import Row


class Examples(NamedTuple):
    """Prompts with their answers.

    Attributes:
        tokens: of both, padded.
        starts: where each answer begins.
        lengths: of both together.
    """

    tokens: Int[Any, "examples tokens"]
    starts: Int[Any, " examples"]
    lengths: Int[Any, " examples"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Likelihood(FromCheckpoint):
    """Make given answers likely, token by token.

    Fitness is the mean log-likelihood, in nats, of a token of the answers (their end
    included): best 0, chance `-log(vocabulary)`. The headline metric is `loss`, its
    negative on held-out examples. It has a true gradient: `--algorithm backprop` is
    supervised fine-tuning, and `openes` with a population of 2 is MeZO.

    Attributes:
        examples: that a step reads, the same for all members.

    References:
        MeZO: Malladi et al. (2023), https://arxiv.org/abs/2305.17333.
    """

    examples: Count = 16

    differentiable = True
    maximise = False

    def ready(self) -> None:
        super().ready()
        for row in (*self.data.validation, *self.data.train[:SEEN]):
            self._tokens(row)

    def batch_like(self) -> Examples:
        shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
        width = self.prompt_tokens + self.new_tokens
        count = (self.examples,)
        return Examples(shape((*count, width)), shape(count), shape(count))

    def batch(self, state: tuple, step: int, key: PRNGKeyArray) -> Examples:
        """Read the next examples of the epoch; no chance is involved."""
        del state, key
        return self._examples(self.data.rows(step, self.examples, seed=self.data_seed))

    def _examples(self, rows: list[Row]) -> Examples:
        pairs = [self._tokens(row) for row in rows]
        tokens, lengths = padded(
            [prompt + answer for prompt, answer in pairs],
            self.prompt_tokens + self.new_tokens,
        )
        starts = np.asarray([len(prompt) for prompt, _ in pairs], np.int32)
        return Examples(tokens, starts, lengths)

    def _tokens(self, row: Row) -> tuple[list[int], list[int]]:
        solution = self.verifier.reference(**row.columns)
        if solution is None:
            raise UserError(
                f"reward: {self.reward or self.data.reward} knows no answers to learn "
                f"from, such as to {row.prompt!r:.60}"
            )
        answer = [*self.words.encode(solution, begins=False), *self.end_tokens[:1]]
        if len(answer) > self.new_tokens:
            raise UserError(
                f"new_tokens: expected answers of at most {self.new_tokens} tokens, "
                f"the end included, got {len(answer)} of {solution!r:.80}"
            )
        return self.tokens_of(row.prompt), answer

    def evaluate(
        self, params: PyTree, data: Examples, carry: tuple, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], tuple, dict[str, Any]]:
        del key
        total, tokens = self._read(params, data)
        fitness = jnp.sum(total) / jnp.sum(tokens)
        return fitness, carry, {"steps": jnp.sum(tokens), "metrics": {"loss": -fitness}}

    def _read(self, params: PyTree, data: Examples) -> tuple[Array, Array]:
        """The log-likelihood of each answer, and how many tokens it has."""
        return score(self.language_model, params, *data), data.lengths - data.starts

    def validate(
        self, params: PyTree, state: tuple, key: PRNGKeyArray
    ) -> dict[str, float]:
        """Read held-out examples with the unperturbed parameters."""
        del state, key
        count = min(self.validation_prompts, len(self.data.validation))
        total, tokens = 0.0, 0
        for start in range(0, count, self.validation_batch):
            at = np.arange(start, start + self.validation_batch)
            rows = [self.data.validation[i] for i in (at % count).tolist()]
            found, lengths = jax.device_get(self._reader(params, self._examples(rows)))
            total += float(found[at < count].sum(dtype=np.float64))
            tokens += int(lengths[at < count].sum())
        return {"loss": -total / tokens}

    @functools.cached_property
    def _reader(self) -> Callable[..., tuple[Array, Array]]:
        return jax.jit(self._read)
