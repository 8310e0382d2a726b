"""Text as bytes: corpora from files, folders, Hugging Face, or Python's own library.

A corpus is two memory-mapped arrays of bytes, `train` and `validation`, in which a byte
0 precedes each document. It is built once, into a cache directory, and read from there.
"""

import dataclasses
import hashlib
import json
import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from eggroll import UserError


SEPARATOR = b"\0"
VALIDATION_SHARE = 0.1
FORMAT = 1  # of the cache: change it when the same source gives other bytes
Bytes = UInt8[np.ndarray, " bytes"]
# What Python's library holds besides itself, on some machines and not on others.
NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test"}


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Bytes to learn from, and bytes to be judged on.

    Attributes:
        name: the source.
        train: memory-mapped.
        validation: memory-mapped.
    """

    name: str
    train: Bytes
    validation: Bytes


def load(
    source: str,
    *,
    options: Mapping[str, Any] | None = None,
    paragraphs: int = 0,
    cache: Path | None = None,
) -> Corpus:
    """Loads a corpus, from the cache if it has been built before.

    Args:
        source: "python" for the source code of Python's standard library; a file or a
            folder of text (any bytes will do); or "huggingface:NAME" for a dataset.
        options: for Hugging Face, the arguments of `datasets.load_dataset`, and
            `column`, that of the text (default "text").
        paragraphs: cut files into documents of so many paragraphs; 0: each file is one.
        cache: where corpora are kept. By default `$EGGROLL_CACHE`, or else
            `eggroll` in the user's cache directory.

    Raises:
        UserError: there is no such source, or no text in it.
    """
    options = dict(options or {})
    kind, _, name = source.partition(":")
    if kind == "huggingface":
        splits = lambda: _huggingface(name, options)
        identity: Any = [source, options]
    else:
        if options:
            raise UserError(
                f"corpus_options are for Hugging Face datasets, but the corpus is "
                f"{source!r}: leave them out, or name it 'huggingface:NAME'"
            )
        root, files = _library() if source == "python" else _files(Path(source))
        splits = lambda: _from_files(root, files, paragraphs)
        stats = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        identity = [source, paragraphs, stats]
    key = hashlib.sha256(json.dumps([FORMAT, identity], default=str).encode())
    folder = (cache or default_cache()) / key.hexdigest()[:16]
    if not (folder / "done").exists():
        _build(folder, source, splits)
    train, validation = (_map(folder / f"{part}.bin") for part in PARTS)
    return Corpus(source, train, validation)


PARTS: tuple[str, str] = ("train", "validation")


def default_cache() -> Path:
    """Where corpora are kept."""
    if given := os.environ.get("EGGROLL_CACHE"):
        return Path(given) / "corpora"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "eggroll" / "corpora"


def _map(path: Path) -> Bytes:
    return np.memmap(path, np.uint8, mode="r")


Part = tuple[str, bytes]  # the name of a split, and a document of it


def _build(folder: Path, source: str, documents: Callable[[], Iterable[Part]]) -> None:
    """Writes a corpus beside its place and moves it there: never a half of one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.with_name(f"{folder.name}.{os.getpid()}")
    work.mkdir(exist_ok=True)
    sizes: dict[str, int] = dict.fromkeys(PARTS, 0)
    files: dict[str, Any] = {part: (work / f"{part}.bin").open("wb") for part in PARTS}
    try:
        for part, text in documents():
            # A byte 0 starts a document, so there can be none inside.
            sizes[part] += files[part].write(SEPARATOR + text.replace(SEPARATOR, b""))
    finally:
        for file in files.values():
            file.close()
    for part, size in sizes.items():
        if not size:
            raise UserError(
                f"corpus {source!r}: no text is left for {part}: about a tenth of the "
                "files goes to validation, by the hash of their names. Give more "
                "files, or a single one, whose end is held out"
            )
    (work / "done").touch()
    try:
        work.rename(folder)
    except OSError:
        if not (folder / "done").exists():  # else another process was faster
            raise


def _files(path: Path) -> tuple[Path, list[Path]]:
    """All files of a folder, hidden ones left out, or the one file."""
    if path.is_file():
        return path.parent, [path]
    if not path.is_dir():
        raise UserError(
            f"corpus: there is no file or folder {str(path)!r}; give one, 'python' for "
            "Python's own library, or 'huggingface:NAME' for a dataset"
        )
    names = (f for f in path.rglob("*") if f.is_file())
    files = sorted(f for f in names if not _is_hidden(f.relative_to(path)))
    if not files:
        raise UserError(f"corpus: the folder {str(path)!r} holds no files")
    return path, files


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _library() -> tuple[Path, list[Path]]:
    """The modules of Python's standard library, without its tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = root.rglob("*.py")
    return root, sorted(f for f in files if not NOT_LIBRARY & _names(f, root))


def _names(file: Path, root: Path) -> set[str]:
    return {*file.relative_to(root).parts}


def _from_files(root: Path, files: list[Path], paragraphs: int) -> Iterator[Part]:
    """The documents of some files, in an order that mixes folders.

    A file goes to validation by the hash of its name, whatever other files there are;
    a single one is divided, its end for validation.
    """
    digests = {f: _digest(f.relative_to(root).as_posix().encode()) for f in files}
    for file in sorted(files, key=lambda f: digests[f]):
        documents = list(_documents(file.read_bytes(), paragraphs))
        if len(files) > 1:
            part = _split_of(digests[file])
            yield from ((part, document) for document in documents)
            continue
        first = int(len(documents) * (1 - VALIDATION_SHARE))
        if len(documents) == 1:
            (text,) = documents
            cut = int(len(text) * (1 - VALIDATION_SHARE))
            documents, first = [text[:cut], text[cut:]], 1
        for index, document in enumerate(documents):
            yield PARTS[index >= first], document


def _documents(text: bytes, paragraphs: int) -> Iterator[bytes]:
    if not paragraphs:
        if text:
            yield text
        return
    pieces = text.split(b"\n\n")
    for start in range(0, len(pieces), paragraphs):
        if document := b"\n\n".join(pieces[start : start + paragraphs]):
            yield document


def _digest(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def _split_of(digest: int) -> str:
    return PARTS[digest < VALIDATION_SHARE * 2**64]


def _huggingface(name: str, options: dict[str, Any]) -> Iterator[Part]:
    """The documents of a dataset; without a validation split, by their hash."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "a Hugging Face corpus needs the package `datasets`: "
            "pip install 'eggroll-jax[llm]'"
        ) from error
    if "trust_remote_code" in options:
        raise UserError(
            f"corpus 'huggingface:{name}': trust_remote_code would run the code of "
            "whoever made it, and is never passed on: convert it to files of text"
        )
    column = options.pop("column", "text")
    try:
        loaded = datasets.load_dataset(name, **options)
    except Exception as error:  # its errors share no base class
        raise UserError(f"corpus 'huggingface:{name}': {error}") from error
    if not isinstance(loaded, Mapping):
        loaded = {"train": loaded}
    own = set(PARTS) <= set(loaded)
    for part in PARTS if own else ("train",):
        if part not in loaded or column not in loaded[part].column_names:
            raise UserError(
                f"corpus 'huggingface:{name}': expected a split {part!r} with a column "
                f"{column!r}, got {dict(loaded)}: see task.corpus_options"
            )
        for row in loaded[part]:
            text = row[column].encode()
            if text:
                yield (part if own else _split_of(_digest(text))), text
