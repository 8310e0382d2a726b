"""Text to tokens and back, with a checkpoint's own vocabulary and chat template.

From a Hugging Face directory or from the metadata of a GGUF file, and from nowhere
else: nothing is downloaded and no code of a checkpoint is run. Needs the extra `llm`
(`tokenizers`, `jinja2`; `transformers` for directories without a tokenizer.json).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.llm import chat_template
from models.llm.extras import library
from models.llm.gguf_config import end_tokens
from models.llm.gguf_file import File, read


# How text is cut into pieces before pairs are merged, by `tokenizer.ggml.pre`: each
# pattern in turn, within the pieces of those before (llama-vocab.cpp of llama.cpp).
LETTERS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
NEWER = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PIECES = {
    "gpt-2": (LETTERS,),
    "smollm": (r"\p{N}", LETTERS),
    "qwen2": (NEWER.replace("DIGITS", r"\p{N}"),),
    "llama-bpe": (NEWER.replace("DIGITS", r"\p{N}{1,3}"),),
}
# Where these begin with a token of their own unless told not to, and take a whole piece
# that is in the vocabulary without merging.
LLAMA3 = ("llama-bpe",)
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # types of tokens that stand in texts whole
PADDING = 1024  # the most rows by which embeddings are rounded up
CONFIGS = ("generation_config", "config")  # where a directory names its end tokens
NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")


class Tokenizer(NamedTuple):
    """A vocabulary, and how a conversation becomes a text.

    Attributes:
        backend: of `tokenizers`.
        template: of the chat, in Jinja; None if the checkpoint has none.
        names: what templates call `bos_token`, `eos_token` and so on.
        start: the token before every plain text, where the backend puts none.
        end_tokens: the tokens that end a turn.
    """

    backend: Any
    template: str | None = None
    names: Mapping[str, str] = {}
    start: tuple[int, ...] = ()
    end_tokens: tuple[int, ...] = ()

    @property
    def vocabulary(self) -> int:
        """How many tokens there are: the largest id and one."""
        return (
            max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        )

    def encode(self, text: str, *, begins: bool = True) -> list[int]:
        """The tokens of a plain text.

        Names of special tokens in the text become those tokens.

        Args:
            text: of which to make tokens.
            begins: whether a start token stands before it where one is usual; false for
                what follows other tokens.
        """
        found = self.backend.encode(text, add_special_tokens=begins).ids
        return [*self.start, *found] if begins else found

    def decode(self, tokens: Iterable[int], *, special: bool = False) -> str:
        """The text of tokens; bytes that are no UTF-8 become U+FFFD.

        Args:
            tokens: all of them at once: a letter may be spread over several.
            special: whether special tokens appear, by their names.
        """
        ids = [int(token) for token in tokens]
        return self.backend.decode(ids, skip_special_tokens=not special)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        answer: bool = True,
        **options: Any,
    ) -> list[int]:
        """The tokens of a conversation.

        Args:
            messages: each with `role` (system, user, assistant) and `content`.
            answer: whether the assistant's turn is begun.
            options: for the template, such as `enable_thinking` of Qwen3's.

        Raises:
            ValueError: there is no template, or it refuses the messages.
        """
        if self.template is None:
            raise ValueError(
                "this model has no chat template: give it a plain text to continue"
            )
        known = {**self.names, "add_generation_prompt": answer, **options}
        text = chat_template.render(self.template, messages, known)
        return self.backend.encode(text, add_special_tokens=False).ids


def load(path: str | Path, vocabulary: int | None = None) -> Tokenizer:
    """The tokenizer of a checkpoint.

    Args:
        path: a GGUF file, or a directory as Hugging Face's.
        vocabulary: rows of the model's embedding, to be checked.

    Raises:
        ValueError: there is none, it is damaged, or not this model's.
    """
    if Path(path).is_dir():
        made = from_directory(Path(path))
        fits = lambda has: has <= vocabulary <= has + PADDING
    else:
        made = from_gguf(read(path))
        fits = lambda has: has == vocabulary
    if vocabulary is not None and not fits(made.vocabulary):
        raise ValueError(
            f"{path}: the tokenizer has {made.vocabulary} tokens, the model "
            f"{vocabulary}: they do not belong together"
        )
    return made


def from_directory(path: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face checkpoint.

    Raises:
        ValueError: files are missing or damaged.
    """
    said = fields(path / "tokenizer_config.json")
    names = {name: text(said[name]) for name in NAMES if said.get(name)}
    backend = backend_of(path)
    ends = [fields(path / f"{of}.json").get("eos_token_id") for of in CONFIGS]
    ends = [one for end in ends for one in (end if isinstance(end, list) else [end])]
    bos, eos = (backend.token_to_id(names.get(name, "")) for name in NAMES[:2])
    begins = said.get("add_bos_token") and bos not in backend.encode("").ids
    ends.append(eos)
    return Tokenizer(
        backend,
        template_of(path, said),
        names,
        (bos,) if begins and bos is not None else (),
        end_tokens=tuple(dict.fromkeys(one for one in ends if type(one) is int)),
    )


def text(token: Any) -> str:
    """A token's text, which files give plainly or within a record."""
    return str(token["content"] if isinstance(token, Mapping) else token)


def fields(path: Path) -> dict[str, Any]:
    """The content of a JSON file, nothing if there is none."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: should hold an object of JSON")
    return found


def backend_of(path: Path) -> Any:
    """Reads tokenizer.json, or what `transformers` makes of older files."""
    file = path / "tokenizer.json"
    whole = file.is_file()
    reader = library("tokenizers" if whole else "transformers")
    try:
        if whole:
            return reader.Tokenizer.from_file(str(file))
        made = reader.AutoTokenizer.from_pretrained(path, local_files_only=True)
        return made.backend_tokenizer
    except Exception as error:  # of any type: the libraries raise bare ones
        raise ValueError(
            f"{path}: no tokenizer could be read: {error!s:.200}"
        ) from None


def template_of(path: Path, said: Mapping[str, Any]) -> str | None:
    """The chat template of a directory: a file, or in the tokenizer's configuration."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = said.get("chat_template")
    if isinstance(found, list):  # several, by name
        found = {one["name"]: one["template"] for one in found}.get("default")
    return found


def from_gguf(file: File) -> Tokenizer:
    """The tokenizer that a GGUF file carries.

    Raises:
        ValueError: it is of a kind that is not read, or contradicts itself.
    """
    kind = file.get("tokenizer.ggml.model", str)
    rule = file.get("tokenizer.ggml.pre", str, "gpt-2")
    if kind != "gpt2" or rule not in PIECES:
        raise ValueError(
            f"{file.path}: a tokenizer of kind {kind[:40]!r} with the rule "
            f"{rule[:40]!r}; gpt2 with {', '.join(PIECES)} are supported"
        )
    tokens = file.get("tokenizer.ggml.tokens", list)
    bos = file.get("tokenizer.ggml.bos_token_id", int, -1)
    begins = file.get("tokenizer.ggml.add_bos_token", bool, rule in LLAMA3)
    if begins and not 0 <= bos < len(tokens):
        raise ValueError(f"{file.path}: texts begin with token {bos} of {len(tokens)}")
    ids = {
        name: file.get(f"tokenizer.ggml.{key}_token_id", int, -1)
        for name, key in zip(NAMES, ("bos", "eos", "padding", "unknown"), strict=True)
    }
    return Tokenizer(
        byte_pairs(file, tokens, rule),
        file.get("tokenizer.chat_template", str, "") or None,
        {name: tokens[at] for name, at in ids.items() if 0 <= at < len(tokens)},
        (bos,) if begins else (),
        end_tokens(file),
    )


def byte_pairs(file: File, tokens: list[str], rule: str) -> Any:
    """Merges of pairs of bytes, as GPT-2's, from vocabulary and merges."""
    tokenizers = library("tokenizers")
    cut, spell = tokenizers.pre_tokenizers, tokenizers.pre_tokenizers.ByteLevel
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        raise ValueError(f"{file.path}: tokens are there twice")
    merges = [
        (merge[:at], merge[at + 1 :])
        for merge in file.get("tokenizer.ggml.merges", list)
        for at in [merge.find(" ", 1)]
    ]
    try:
        model = tokenizers.models.BPE(vocabulary, merges, ignore_merges=rule in LLAMA3)
    except Exception as error:  # the library raises bare ones
        raise ValueError(f"{file.path}: wrong merges: {error!s:.200}") from None
    backend = tokenizers.Tokenizer(model)
    cuts = [cut.Split(tokenizers.Regex(one), "isolated") for one in PIECES[rule]]
    spelt = spell(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = cut.Sequence([*cuts, spelt])
    backend.decoder = tokenizers.decoders.ByteLevel()
    kinds = file.get("tokenizer.ggml.token_type", np.ndarray, np.zeros(0, int))
    backend.add_tokens(
        [
            tokenizers.AddedToken(
                token, special=bool(kind != USER_DEFINED), normalized=False
            )
            for token, kind in zip(tokens, kinds, strict=False)
            if token and kind in (UNKNOWN, CONTROL, USER_DEFINED)
        ]
    )
    return backend
