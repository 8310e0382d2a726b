"""A run of a language model, written as the files that people have such models in.

Pure functions of what is wanted and where the model came from. What they cannot write
they refuse with a `ValueError` that says what to do.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from eggroll import Factors
from eggroll.task import Export
from models.llm import (
    adapter,
    checkpoint,
    rwkv7_checkpoint,
    safetensors,
    tokenizer,
    tokenizer_files,
)
from models.llm.config import TransformerConfig, read_json
from models.llm.interface import LanguageModel
from models.llm.rwkv7 import RWKV7
from models.llm.transformer import Transformer
from models.llm.truncation import truncated


# Beside the weights, as people publish them: what the tokenizer is read from, and what
# the makers say of generation.
COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)
Adapter = dict[str, tuple[Any, Any] | None]


def export(
    wanted: Export, model: LanguageModel, source: Path, beside: Path | None = None
) -> list[str]:
    """Writes what is wanted; returns what there is to say of it.

    Args:
        wanted: format, directory, parameters.
        model: that has those.
        source: the checkpoint that the run started from, a directory or a file.
        beside: a directory that has the tokenizer's files, if `source` has not.

    Raises:
        ValueError: if the format cannot hold it.
    """
    if isinstance(model, Transformer):
        if wanted.format == "lora":
            return lora(wanted, model.config, source)
        fields = source / "config.json"
        checkpoint.save(
            wanted.directory,
            model.config,
            wanted.params,
            fields=read_json(fields) if fields.is_file() else {},
        )
        if wanted.format == "safetensors":
            return ["weights by the names that transformers has for them"]
        return companions(wanted.directory, [source, beside or source])
    if isinstance(model, RWKV7) and wanted.format == "safetensors":
        path = wanted.directory / safetensors.SINGLE
        rwkv7_checkpoint.write(path, model.config, wanted.params)
        return ["weights by the names that RWKV-7 is published with"]
    raise ValueError(
        f"{type(model).__name__} has no such files: --format safetensors has the names "
        "that it is published with"
    )


def companions(directory: Path, sources: list[Path]) -> list[str]:
    """Copies what stands beside weights, each from the first source that has it.

    The tokenizer of a GGUF file is written out.
    """
    for source in sources:
        if source.is_file():
            found = tokenizer.load(source)
            return [f"with {', '.join(tokenizer_files.save(directory, found))}"]
    copied = []
    for name in COMPANIONS:
        found = next((x / name for x in sources if (x / name).is_file()), None)
        if found is not None:
            shutil.copyfile(found, directory / name)
            copied.append(name)
    if any(name.startswith("tokenizer") for name in copied):
        return [f"with {', '.join(copied)}"]
    return [f"without a tokenizer, which {sources[0]} has none of: copy one beside it"]


def lora(wanted: Export, config: TransformerConfig, source: Path) -> list[str]:
    """Writes an adapter: a member, or as much of what was learnt as a rank holds."""
    if wanted.factors is not None:
        factors, said = of_member(wanted.factors), []
    else:
        factors, said = of_update(wanted.start(), wanted.params, config, wanted.rank)
    adapter.write(wanted.directory, config, factors, base=str(source))
    if config.tied and "embed" in factors:
        said += ["the head is tied to the embedding: apply it, and do not merge it"]
    return said


def of_member(factors: PyTree) -> Adapter:
    """Returns the factors of a member as an adapter takes them, by path."""
    is_leaf = lambda x: isinstance(x, Factors)
    return {
        x.path: None if x.right is None else (x.left, x.multiplier * x.right)
        for x in jax.tree.leaves(factors, is_leaf=is_leaf)
    }


def of_update(
    start: PyTree, now: PyTree, config: TransformerConfig, rank: int
) -> tuple[Adapter, list[str]]:
    """Returns the nearest adapter of a rank to a change of the parameters.

    Args:
        start: the parameters that the adapter is for.
        now: what they have become.
        config: of the model.
        rank: of the adapter, at most.

    Returns:
        Its factors by path, None for what is no matrix and has changed; and how much of
        each change they hold, as shares of its squared norm.

    Raises:
        ValueError: if nothing has changed.
    """
    able = {place.path for place in adapter.places(config)}
    factors: Adapter = {}
    norms: dict[str, tuple[float, float]] = {}
    before, after = _by_path(start), _by_path(now)
    for path, x in after.items():
        change = np.asarray(x, np.float32) - np.asarray(before[path], np.float32)
        if not change.any():
            continue
        if path not in able:
            factors[path] = None
            continue
        found = truncated(change, rank)
        factors[path] = found.left, found.right
        norms[path] = found.kept, found.total
    if not factors:
        raise ValueError("nothing has changed since the run started")
    return factors, _shares(norms, rank)


def _shares(norms: Mapping[str, tuple[float, float]], rank: int) -> list[str]:
    kept, total = (sum(x) for x in zip((0.0, 0.0), *norms.values(), strict=True))
    rows = [*norms.items(), ("all of it", (kept, total))]
    return [
        f"rank {rank} holds, of the squared norm of the change in:",
        *(
            f"  {path:<14} {part / max(whole, 1e-300):.4f}"
            for path, (part, whole) in rows
        ),
    ]


def _by_path(params: PyTree) -> dict[str, jax.Array]:
    flat = jax.tree_util.tree_leaves_with_path(params)
    name = jax.tree_util.keystr
    return {name(path, simple=True, separator="/"): x for path, x in flat}
