"""The tokenizer of RWKV's "World" models: always the longest token that fits.

Its vocabulary is a text file with a line for each token: the id, a literal of Python
(a `str`, which stands for its UTF-8, or `bytes`), and the length in bytes, as in
`300 'in' 2`. Ids count from 1; 0 ends a text. Some tokens are no whole characters, so
bytes become text only when all of them are there.
"""

import ast
import contextlib
import functools
import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


END = 0
VOCABULARY = "rwkv_vocab_v20230424.txt"  # as published
ROLES = ("System", "User", "Assistant")
LONGEST_LITERAL = 1024  # characters; a token of 128 bytes takes 512
LINE = re.compile(r"([0-9]{1,9}) (b?'.*'|b?\".*\") ([0-9]{1,9})", re.DOTALL)


class WorldTokenizer:
    """Turns text to ids and back.

    Attributes:
        tokens: the bytes of each id.
        vocabulary: number of ids, with that of the end of a text.
        end_tokens: the ids that end a text.
    """

    end_tokens = (END,)

    def __init__(self, tokens: Mapping[int, bytes]):
        """Takes the vocabulary.

        Args:
            tokens: the bytes of each id; `read` has them from a file.

        Raises:
            ValueError: if ids do not count from 1, a token is empty or there twice, or
                one of the 256 bytes is no token, so that some texts are none.
        """
        self.tokens = dict(tokens)
        self.vocabulary = len(tokens) + 1
        self._ids = {token: i for i, token in self.tokens.items()}
        if self.tokens.keys() != set(range(1, self.vocabulary)):
            raise ValueError("the ids of a World vocabulary must count from 1 on")
        if len(self._ids) < len(self.tokens):
            twice = next(x for i, x in self.tokens.items() if self._ids[x] != i)
            raise ValueError(f"the token {twice!r} has more than one id")
        missing = [x for x in map(_byte, range(256)) if x not in self._ids]
        if b"" in self._ids or missing:
            raise ValueError(
                f"each of the 256 bytes must be a token, and nothing must not: missing "
                f"{missing[:4]}, of {len(missing)}"
            )

    def encode(self, text: str | bytes, *, begins: bool = True) -> list[int]:
        """Returns the ids: at each place the longest token that fits.

        No token stands before them, whether the text `begins` or follows others.
        """
        del begins
        data = text.encode() if isinstance(text, str) else bytes(text)
        ids, at = [], 0
        while at < len(data):
            # A token of one byte fits in any case.
            sizes = self._lengths.get(data[at : at + 2], (1,))
            size = next(n for n in sizes if data[at : at + n] in self._ids)
            ids.append(self._ids[data[at : at + size]])
            at += size
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode(errors="replace")

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        answer: bool = True,
        enable_thinking: bool = False,
    ) -> list[int]:
        """Returns the ids of a conversation, as RWKV-7 models know them.

        Turns are `User: ...` and end with an empty line, so there is none within them.

        Args:
            messages: each with `role` (system, user, assistant) and `content`.
            answer: whether the assistant's turn is begun.
            enable_thinking: whether it is begun with a thought.

        Raises:
            ValueError: for another role.
        """
        turns = []
        for message in messages:
            role = str(message["role"]).capitalize()
            if role not in ROLES:
                raise ValueError(
                    f"a turn's role must be one of {', '.join(ROLES).lower()}, got "
                    f"{message['role']!r}"
                )
            content = re.sub(r"\n\s*\n", "\n", str(message["content"]).strip())
            turns.append(f"{role}: {content}")
        if answer:
            turns.append("Assistant: <think" if enable_thinking else "Assistant:")
        return self.encode("\n\n".join(turns))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Returns the bytes; the end has none, nor have a model's spare ids."""
        return b"".join(self.tokens.get(int(i), b"") for i in ids)

    @functools.cached_property
    def turn_ends(self) -> tuple[int, ...]:
        """The ids that end a turn of a conversation: of whatever ends in an empty line.

        Not of a thought, which has such lines within.
        """
        return tuple(i for i, token in self.tokens.items() if token.endswith(b"\n\n"))

    @functools.cached_property
    def _lengths(self) -> dict[bytes, tuple[int, ...]]:
        """By the first two bytes, how long tokens are, longest first and at last 1.

        A trie in short: what two bytes leave open is few lengths, each one look-up.
        """
        found: dict[bytes, set[int]] = {}
        for token in self._ids:
            if len(token) > 1:
                found.setdefault(token[:2], {1}).add(len(token))
        return {k: tuple(sorted(x, reverse=True)) for k, x in found.items()}


def find(checkpoint: str | Path) -> Path:
    """Finds the vocabulary file of a checkpoint.

    Args:
        checkpoint: a directory, or a file in one, that may hold it; else it is that of
            the package `rwkv`, if this is installed. Nothing of it is run.

    Raises:
        FileNotFoundError: if it is in neither.
    """
    path = Path(checkpoint)
    places = [path if path.is_dir() else path.parent]
    package = importlib.util.find_spec("rwkv")
    if package is not None and package.origin is not None:
        places.append(Path(package.origin).parent)
    for place in places:
        if (place / VOCABULARY).is_file():
            return place / VOCABULARY
    raise FileNotFoundError(
        f"{places[0]} lacks {VOCABULARY}, the vocabulary of RWKV's World models: put "
        "it there, or install the package that holds it: pip install --no-deps rwkv"
    )


def read(path: str | Path) -> WorldTokenizer:
    """Reads a vocabulary file, such as `rwkv_vocab_v20230424.txt`.

    Literals are parsed, not evaluated.

    Raises:
        ValueError: for a line of another form, a length that is not the token's, an id
            that is there twice, and as `WorldTokenizer` does.
    """
    try:
        text = Path(path).read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be a text in UTF-8, got {error}") from None
    tokens: dict[int, bytes] = {}
    # Not splitlines: a literal may hold what else separates lines.
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        where = f"line {number} of {path}"
        index, token, length = _parsed(line.removesuffix("\r"), where)
        if length != len(token):
            raise ValueError(
                f"{where} has a token of {len(token)} bytes, and says {length}"
            )
        if index in tokens:
            raise ValueError(f"{where} has the id {index}, which was there before")
        tokens[index] = token
    return WorldTokenizer(tokens)


def _parsed(line: str, where: str) -> tuple[int, bytes, int]:
    parts = LINE.fullmatch(line)
    token = None
    if parts and len(parts[2]) <= LONGEST_LITERAL:
        with contextlib.suppress(SyntaxError, ValueError):
            token = ast.literal_eval(parts[2])
    if not parts or not isinstance(token, str | bytes):
        raise ValueError(
            f"{where} must be an id, a literal of str or bytes and a length, as in "
            f"300 'in' 2; got {line[:80]!r}"
        )
    token = token.encode(errors="surrogatepass") if isinstance(token, str) else token
    return int(parts[1]), token, int(parts[3])


def _byte(value: int) -> bytes:
    return bytes((value,))
