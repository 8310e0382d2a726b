"""The language model that a task starts from: a checkpoint, or what is known of it."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from eggroll import Task, UserError
from eggroll.config import Count, check_bounds
from eggroll.task import Export
from eggroll.training import instantiate
from models.llm import pretrained
from models.llm.interface import LanguageModel
from models.llm.published import PUBLISHED, Published
from tasks.reasoning import rewards, sources
from tasks.reasoning.export import export
from tasks.reasoning.rows import Dataset
from tasks.reasoning.verifier import Verifier


SEEN = 4096  # rows that are looked at before a run: all but of the largest datasets
Prompt = str | Sequence[Mapping[str, str]]
# Of what is read from files or imported, mistakes come as errors of these kinds.
blaming = functools.partial(
    instantiate.blaming, kinds=(ValueError, OSError, ImportError)
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromCheckpoint(Task):
    """What all tasks share that start from a language model's checkpoint.

    Attributes:
        checkpoint: a directory as Hugging Face's, a GGUF file, or RWKV-7's tensors.
        model: a name of `models.llm.published.PUBLISHED`: what the checkpoint holds,
            so that `eggroll info` can do without it.
        random: draw the parameters, of the checkpoint's sizes, instead of reading them.
        chat: hand prompts over as a user's turn, by the checkpoint's template if it has
            one; false: as texts to be continued.
        system: of a conversation, before the user's turn.
        thinking: `enable_thinking` of the template; None leaves it at its default.
        prefix: what the answer begins with, such as "<think".
        dataset: "countdown", "addition", "gsm8k", "reasoning_gym:NAME", a file of JSON
            lines, or "huggingface:NAME"; see `tasks.reasoning.sources.load`.
        dataset_options: of the dataset; see there.
        data_seed: decides which problems there are and in which order they are read,
            whatever the run's seed.
        reward: "countdown", "exact", "gsm8k", "math_verify", "reasoning_gym", or
            `module:function`; empty for the dataset's own.
        reward_options: of the reward; see `tasks.reasoning.rewards`.
        prompt_tokens: the most of a prompt; shorter ones are padded to as many.
        new_tokens: the most of a completion.
        validation_prompts: how many problems are held out.
        validation_batch: how many of them the model reads at once.
    """

    checkpoint: str
    model: str = ""
    random: bool = False
    chat: bool = True
    system: str = ""
    thinking: bool | None = None
    prefix: str = ""
    dataset: str
    dataset_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data_seed: int = 0
    reward: str = ""
    reward_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prompt_tokens: Count = 128
    new_tokens: Count = 64
    validation_prompts: Count = 128
    validation_batch: Count = 64

    samples = "tokens"

    def __post_init__(self) -> None:
        if self.model and self.model not in PUBLISHED:
            raise UserError(
                f"model: {self.model!r} is not known; there is {', '.join(PUBLISHED)}"
            )
        check_bounds(self)
        room = self.language_model.config.context
        if self.prompt_tokens + self.new_tokens > room:
            raise UserError(
                f"prompt_tokens and new_tokens: {self.prompt_tokens} + "
                f"{self.new_tokens} do not fit the model's context of {room}"
            )

    @property
    def published(self) -> Published | None:
        """What `model` names."""
        return PUBLISHED.get(self.model)

    @functools.cached_property
    def language_model(self) -> LanguageModel:
        """The model, without its parameters: of the checkpoint, or else by its name."""
        path, known = Path(self.checkpoint), self.published
        needed = pretrained.missing(path, known)
        if needed and known is not None:
            return known.model
        if not path.exists():
            raise UserError(f"checkpoint: {self._missing(needed)}")
        with blaming("checkpoint"):
            found = pretrained.describe(path)
        if known is not None and _sizes(known.model) != _sizes(found):
            raise UserError(
                f"checkpoint: {path} holds {found.config}, which is not {self.model}, "
                f"{known.model.config}: leave out model, or name another"
            )
        return found

    @property
    def is_there(self) -> bool:
        """Whether all files of the checkpoint are there that are needed."""
        return not self._lacks()

    def _lacks(self) -> list[str]:
        needed = pretrained.missing(Path(self.checkpoint), self.published)
        weights = (".safetensors", ".safetensors.index.json")
        return [x for x in needed if not (self.random and x.endswith(weights))]

    def ready(self) -> None:
        self._require_files()
        self.verifier.prepare()
        for row in (*self.data.validation, *self.data.train[:SEEN]):
            self.tokens_of(row.prompt)
        first, other = self.data.validation[0].prompt, self.data.train[0].prompt
        if self.tokens_of(first) == self.tokens_of(other):  # which are never the same
            raise UserError(
                "chat: the checkpoint's template leaves out the user's turn: "
                f"{first!r:.60} and {other!r:.60} become the same tokens: set chat to "
                "false, or mend the template"
            )

    def _require_files(self) -> None:
        if needed := self._lacks():
            raise UserError(f"checkpoint: {self._missing(needed)}")

    def _missing(self, names: Sequence[str]) -> str:
        known = self.published
        lacks = f"{self.checkpoint} lacks {', '.join(names) or 'everything'}"
        if known is None:
            return f"{lacks}: name a directory, a GGUF file or RWKV-7's tensors"
        wanted = " ".join(names or known.files)
        return (
            f"{lacks}: get it with: hf download {known.hub} {wanted} --local-dir "
            f"{self.checkpoint}"
        )

    @functools.cached_property
    def words(self) -> Any:
        """The checkpoint's tokenizer."""
        with blaming("checkpoint"):
            vocabulary = self.language_model.config.vocabulary
            return pretrained.tokenizer(self.checkpoint, vocabulary)

    @functools.cached_property
    def data(self) -> Dataset:
        """What is learnt from, and what is held out."""
        with blaming("dataset"):
            return sources.load(
                self.dataset,
                self.dataset_options,
                validation=self.validation_prompts,
                seed=self.data_seed,
            )

    @functools.cached_property
    def verifier(self) -> Verifier:
        """The reward."""
        with blaming("reward"):
            own = {} if self.reward else self.data.reward_options
            name = self.reward or self.data.reward
            if not name:
                raise UserError(f"reward: {self.dataset} has none of its own: name one")
            found = rewards.find(name, {**own, **self.reward_options})
            self.data.require(found.columns)
        return found

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """Each of which ends a completion: those of the model and of its tokenizer."""
        own = self.language_model.config.end_tokens
        if not self.is_there:
            return own  # as far as is known without the files
        return tuple(dict.fromkeys((*own, *self.words.end_tokens)))

    def params_like(self) -> PyTree:
        return jax.eval_shape(self.language_model.init, jax.random.key(0))

    def init(self, key: PRNGKeyArray) -> PyTree:
        """The checkpoint's parameters, in the types of the file."""
        if self.random:
            return self.language_model.init(key)
        self._require_files()
        with blaming("checkpoint"):
            return pretrained.load(self.checkpoint)[1]

    def export(self, wanted: Export) -> list[str]:
        """Writes what was learnt; see `tasks.reasoning.export`."""
        return export(wanted, self.language_model, Path(self.checkpoint))

    def tokens_of(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt, up to where the answer begins.

        Raises:
            UserError: they are none, or more than `prompt_tokens`.
        """
        tokens = self._tokens_of(prompt)
        if 0 < len(tokens) <= self.prompt_tokens:
            return tokens
        raise UserError(
            f"prompt_tokens: expected prompts of 1 to {self.prompt_tokens} tokens, got "
            f"{len(tokens)} of {prompt!r:.80}"
        )

    def _tokens_of(self, prompt: Prompt) -> list[int]:
        as_chat = self.chat and getattr(self.words, "template", True) is not None
        if not as_chat:
            text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            return self.words.encode(text + self.prefix)
        turns = [{"role": "user", "content": prompt}]
        turns = turns if isinstance(prompt, str) else list(prompt)
        if self.system and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": self.system}, *turns]
        options = {} if self.thinking is None else {"enable_thinking": self.thinking}
        with blaming("checkpoint"):
            tokens = self.words.chat(turns, **options)
        return [*tokens, *self.words.encode(self.prefix, begins=False)]


def padded(rows: Sequence[Sequence[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of tokens as a matrix, zeros behind, and their lengths."""
    out = np.zeros((len(rows), width), np.int32)
    for at, row in zip(out, rows, strict=True):
        at[: len(row)] = row
    return out, np.asarray([len(row) for row in rows], np.int32)


def _sizes(model: LanguageModel) -> Any:
    """The shapes of the parameters, by which models of a kind are told apart."""
    like: Array = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda x: x.shape, like)
