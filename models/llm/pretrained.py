"""Language models from whatever files people have of them.

A checkpoint is a directory as Hugging Face's, a GGUF file, or an RWKV-7 as a `.pth` or
safetensors file, or a directory with one of these. Which it is, the files tell.
"""

import contextlib
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jax.typing import DTypeLike

from models.llm import (
    checkpoint,
    gguf,
    gguf_config,
    gguf_file,
    rwkv7_checkpoint,
    safetensors,
    tokenizer as tokenizers,
    world,
)
from models.llm.interface import LanguageModel, Params
from models.llm.published import Published
from models.llm.rwkv7 import RWKV7
from models.llm.tokenizer import Tokenizer
from models.llm.transformer import Transformer
from models.llm.world import WorldTokenizer


KINDS = (
    "a checkpoint is a directory with config.json and safetensors, as Hugging Face's, "
    "a GGUF file, or an RWKV-7 as .pth or .safetensors or a directory with one of these"
)
RWKV7_FILES = (".pth", ".safetensors")


class Source(NamedTuple):
    """What a checkpoint is: its kind, and the directory or file that is to be read."""

    kind: Literal["huggingface", "gguf", "rwkv7"]
    path: Path


def source(path: str | PathLike) -> Source:
    """Says what kind of checkpoint stands at a path.

    Raises:
        FileNotFoundError: there is nothing, or no file of a checkpoint.
        ValueError: it is of no kind that is read, or more than one RWKV-7.
    """
    path = Path(path)
    if path.is_file():
        return _source_of_file(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: there is no such file or directory; {KINDS}")
    if (path / "config.json").exists():
        return Source("huggingface", path)
    found = [x for x in sorted(path.iterdir()) if x.suffix in RWKV7_FILES]
    if not found:
        raise FileNotFoundError(
            f"{path} has neither config.json nor the one .pth or .safetensors of an "
            f"RWKV-7: {KINDS}"
        )
    if (path / safetensors.INDEX).exists() or not _may_be_rwkv7(found[0]):
        raise FileNotFoundError(
            f"{path} has weights and no config.json, which says what they are: fetch "
            "it, too"
        )
    if len(found) > 1:
        raise ValueError(
            f"{path} holds several checkpoints: {', '.join(x.name for x in found)}. "
            "Name one."
        )
    return Source("rwkv7", found[0])


def describe(path: str | PathLike) -> LanguageModel:
    """Reads what model a checkpoint holds, from configuration and headers alone.

    The weights of a Hugging Face directory need not be there. Where they hold a head
    beside a tied embedding, `load` may find that the two differ.

    Raises:
        FileNotFoundError: as `source` does.
        ValueError: the model is not supported, or what describes it is damaged.
    """
    kind, file = source(path)
    if kind == "huggingface":
        return Transformer(checkpoint.describe(file))
    if kind == "gguf":
        return Transformer(gguf_config.config(gguf_file.read(file)))
    return RWKV7(rwkv7_checkpoint.describe(file))


def load(
    path: str | PathLike, *, dtype: DTypeLike | None = None, shardings: Any = None
) -> tuple[LanguageModel, Params]:
    """Reads a model and its parameters.

    Args:
        path: of the checkpoint.
        dtype: of the parameters; None for the widest in the files, of GGUF float32.
        shardings: a `jax.sharding.Sharding` for all parameters, or a tree of them as
            of the parameters; what no device of this host holds is not read.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the model is not supported, or its files are damaged or do not fit
            it: missing, unknown and mis-shaped tensors are listed.
    """
    kind, file = source(path)
    if kind == "rwkv7":
        sizes, params = rwkv7_checkpoint.read(file, dtype, shardings)
        return RWKV7(sizes), params
    if kind == "gguf":
        config, params = gguf.load(
            file, dtype="float32" if dtype is None else dtype, shardings=shardings
        )
    else:
        config, params = checkpoint.load(file, dtype=dtype, shardings=shardings)
    return Transformer(config), params


def tokenizer(
    path: str | PathLike, vocabulary: int | None = None
) -> Tokenizer | WorldTokenizer:
    """Reads the tokenizer of a checkpoint; RWKV-7's is that of the World models.

    Args:
        path: of the checkpoint.
        vocabulary: rows of the model's embedding, to be checked.

    Raises:
        FileNotFoundError: as `source` and `world.find` do.
        ValueError: there is none, it is damaged, or not this model's.
        ImportError: the extra `llm`, which it needs, is not installed.
    """
    kind, file = source(path)
    if kind != "rwkv7":
        return tokenizers.load(file, vocabulary)
    made = world.read(world.find(file))
    spare = 0 if vocabulary is None else vocabulary - made.vocabulary
    if not 0 <= spare <= tokenizers.PADDING:
        raise ValueError(
            f"{path}: the World vocabulary has {made.vocabulary} tokens, the model "
            f"{vocabulary}: they do not belong together"
        )
    return made


def missing(
    path: str | PathLike, published: Published | None = None
) -> tuple[str, ...]:
    """Names the files that a checkpoint lacks.

    Args:
        path: where it is, or should be.
        published: what is wanted there; without it, what `load` needs of whatever is
            there. A GGUF file or an RWKV-7 by another name passes for it.

    Returns:
        Names, none of which is in the directory: with shards, those that the index
        names.

    Raises:
        ValueError: what is there is no checkpoint, or its index is damaged.
    """
    path = Path(path)
    if path.is_file():
        source(path)
        return ()
    wanted = published.files if published else ("config.json", safetensors.SINGLE)
    if not path.is_dir():
        return wanted
    if not published or "config.json" not in wanted:
        with contextlib.suppress(FileNotFoundError):
            if source(path).kind == "rwkv7":
                return ()
    weights = (*RWKV7_FILES, safetensors.INDEX)
    beside = [x for x in wanted if not x.endswith(weights)]
    needed = safetensors.files(path) or [x for x in wanted if x.endswith(weights)]
    return tuple(x for x in (*beside, *needed) if not (path / x).is_file())


def _source_of_file(path: Path) -> Source:
    with path.open("rb") as file:
        start = file.read(9)
    if path.suffix == ".gguf" or start.startswith(gguf_file.MAGIC):
        return Source("gguf", path)
    if path.suffix in RWKV7_FILES or start[8:] == b"{":
        return Source("rwkv7", path)
    if path.suffix in safetensors.PICKLES or start[:2] == b"PK" or start[:1] == b"\x80":
        raise ValueError(
            f"{path} is a pickle, which can run anything when read: of these, only "
            "RWKV-7 as .pth is read, by a reader that runs nothing"
        )
    raise ValueError(f"{path} is none of the files that are read: {KINDS}")


def _may_be_rwkv7(path: Path) -> bool:
    """Whether a file has a name or a tensor of RWKV's, or is damaged: `load` tells."""
    if path.suffix != ".safetensors":
        return True
    try:
        return "emb.weight" in safetensors.read(path)
    except ValueError:
        return True
