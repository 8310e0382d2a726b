"""Pretraining of language models on bytes."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num, PRNGKeyArray, PyTree, UInt8

from eggroll import Task, UserError
from eggroll.config import Count, Natural, check_bounds
from eggroll.integer import compilation
from eggroll.training import Stepping, integer_algorithm
from models.egg import Egg
from tasks.language import networks
from tasks.language.corpus import Corpus, load
from tasks.language.diagnostics import saturation_of, weights_of
from tasks.language.lanes import Lanes, references
from tasks.language.sampling import sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class Language(Task):
    """Predict the next byte of a text.

    Fitness is the log2-probability of the bytes that a member reads in a step: their
    sum, in sixteenths of a bit, for the integer model, and their mean, in bits, for the
    float ones. The headline metric is bits per byte on the held-out part: a uniform
    guess needs 8, the entropies of single bytes and of pairs are drawn as lines, and
    what the best models of a text of this size reach lies well below its gzip line.

    Members read the corpus in lanes that go on from step to step, and keep their
    recurrent state; population / lanes consecutive members share a lane.

    Attributes:
        corpus: "python" (the standard library's source), a file or folder of text, or
            "huggingface:NAME".
        corpus_options: for Hugging Face: arguments of `datasets.load_dataset`, and
            `column`, that of the text.
        paragraphs: cut files into documents of so many paragraphs; 0: each file is one.
        lanes: sequences read in parallel.
        tokens: bytes of each lane that a step predicts.
        model: "egg", the integer model, or its float relatives "gru", "transformer".
        layers: number of blocks.
        width: of the residual stream; a power of 4 for EGG.
        stepping: how integer weights are learnt; with `paper`, the model's shifts drop
            their remainders, too, as published.
        validation_lanes: sequences in which the held-out part is read.
        validation_bytes: of the held-out part, the most that is read.
    """

    corpus: str = "python"
    corpus_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    paragraphs: Natural = 0
    lanes: Count = 128
    tokens: Count = 100
    model: networks.Name = "egg"
    layers: Count = 2
    width: Count = 64
    stepping: Stepping = dataclasses.field(default_factory=Stepping)
    validation_lanes: Count = 256
    validation_bytes: Count = 2**21

    maximise = False
    samples = "tokens"
    data_axes = 0
    algorithms = MappingProxyType({"integer": integer_algorithm})

    def __post_init__(self):
        check_bounds(self)
        try:
            self.network  # noqa: B018 - so that impossible sizes are refused now
        except ValueError as error:
            raise UserError(str(error)) from error

    @property
    def most_samples(self) -> int:
        """Bytes that a member predicts in a step."""
        return self.tokens

    @functools.cached_property
    def network(self) -> networks.Network:
        """The model."""
        rounding = "floor" if self.stepping.paper else "nearest"
        sizes = self.layers, self.width, self.tokens
        return networks.make(self.model, *sizes, rounding=rounding)

    @property
    def differentiable(
        self,
    ) -> bool:
        return self.network.is_float

    @property
    def reference(
        self,
    ) -> Mapping[str, float]:
        """What simple models of the held-out part need, in bits a byte."""
        return self._references

    @functools.cached_property
    def _references(self) -> dict[str, float]:
        return references(self.held_out.text)

    @functools.cached_property
    def text(self) -> Corpus:
        """The corpus."""
        return load(
            self.corpus, options=self.corpus_options, paragraphs=self.paragraphs
        )

    @functools.cached_property
    def reading(self) -> Lanes:
        """The lanes that are learnt from."""
        self.held_out  # noqa: B018 - so that too short a one is refused before training
        return Lanes(self.text.train, self.lanes, self.tokens)

    @functools.cached_property
    def held_out(self) -> Lanes:
        """The lanes that are validated on: each is read once, in whole steps."""
        text = self.text.validation[: self.validation_bytes]
        if len(text) <= self.tokens:
            raise UserError(
                f"the corpus's held-out part is too short: one step reads "
                f"{self.tokens} + 1 bytes, got {len(text):,}: use fewer tokens, or a "
                "longer text"
            )
        lanes = max(1, min(self.validation_lanes, len(text) // (self.tokens + 1)))
        return Lanes(text, lanes, self.tokens)

    def init(self, key: PRNGKeyArray) -> PyTree:
        return self.network.init(key)

    def batch(
        self, state: tuple, step: int, key: PRNGKeyArray
    ) -> UInt8[np.ndarray, "lanes tokens+1"]:
        """Read the bytes that a step comes to; no chance is involved."""
        del state, key
        return self.reading.read(step)

    def initial_carry(self, population: int) -> PyTree:
        """The members' recurrent states, at the start of a document."""
        group = population // self.lanes
        if population % self.lanes or (group > 1 and group % 2):
            raise UserError(
                f"a lane is read by a group of population / lanes members, a whole "
                f"number of pairs: got population {population} and {self.lanes} lanes; "
                f"use {max(2, round(group / 2) * 2) * self.lanes} members, or other "
                "lanes"
            )
        return jax.tree.map(
            lambda x: jnp.broadcast_to(x, (population, *x.shape)),
            self.network.initial_state(),
        )

    def evaluate(
        self, params: PyTree, data: UInt8[Array, "tokens+1"], carry: PyTree, key: Any
    ) -> tuple[Num[Array, ""], PyTree, dict[str, Any]]:
        del key
        total, carry = self.network.log_likelihood(params, carry, data)
        fitness = total / self.tokens if self.network.is_float else total
        bits = -total / (self.network.units * self.tokens)
        return fitness, carry, {"steps": self.tokens, "metrics": {"bits/byte": bits}}

    def validate(
        self, params: PyTree, state: tuple, key: PRNGKeyArray
    ) -> dict[str, float]:
        """Read the held-out part with the unperturbed parameters."""
        del state, key
        lanes = self.held_out
        read = [lanes.read(step) for step in range(lanes.steps)]
        total = int(self._validation(params, np.stack(read)))
        tokens = lanes.lanes * lanes.steps * lanes.tokens
        figures = {"bits/byte": -total / (self.network.units * tokens)}
        if isinstance(self.network, Egg):
            tokens = jnp.asarray(read[0][:, :-1])
            figures |= saturation_of(self.network, params, tokens)
            figures |= weights_of(params)
        return figures

    def sample(
        self,
        params: PyTree,
        prompt: bytes,
        length: int,
        key: PRNGKeyArray,
        temperature: float = 1.0,
    ) -> Iterator[bytes]:
        """Continue a prompt; see `tasks.language.sampling`."""
        return sample(self.network, params, prompt, length, key, temperature)

    @functools.cached_property
    def _validation(self) -> Callable[[PyTree, Any], Any]:
        """Compiled, as a function of parameters and of all the held-out steps."""

        def run(params, steps):
            start = self.network.initial_state()
            lanes = steps.shape[1]
            state = jax.tree.map(
                lambda x: jnp.broadcast_to(x, (lanes, *x.shape)), start
            )

            def one(state, tokens):
                read = jax.vmap(self.network.log_likelihood, in_axes=(None, 0, 0))
                total, state = read(params, state, tokens)
                return state, total

            return jax.lax.scan(one, state, steps)[1]

        compiled = compilation.jit(run)
        return lambda params, steps: np.asarray(
            compiled(params, steps), np.float64
        ).sum()
