"""Transformers of Hugging Face's on disk: `config.json` and safetensors, in and out."""

import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from models.llm import placement, safetensors
from models.llm.config import (
    TransformerConfig,
    from_huggingface,
    read_json,
    to_huggingface,
)
from models.llm.names import NOT_WEIGHTS, OUTSIDE, Leaf, plan
from models.llm.placement import Index
from models.llm.settings import generation_settings
from models.llm.transformer import Params


def describe(directory: str | os.PathLike) -> TransformerConfig:
    """Reads the configuration of a Llama, Qwen2 or Qwen3, and none of its weights.

    Args:
        directory: with `config.json`, and perhaps `generation_config.json`, whose end
            tokens go before.

    Raises:
        FileNotFoundError: if there is no `config.json`.
        ValueError: if the model is not supported.
    """
    directory = Path(directory)
    config = from_huggingface(read_json(directory / "config.json"))
    if (settings := generation_settings(directory)).end_tokens:
        config = dataclasses.replace(config, end_tokens=settings.end_tokens)
    return config


def load(
    directory: str | os.PathLike,
    *,
    dtype: DTypeLike | None = None,
    shardings: Any = None,
) -> tuple[TransformerConfig, Params]:
    """Reads a Llama, Qwen2 or Qwen3 as Hugging Face's `save_pretrained` leaves it.

    Weights are mapped into memory and read once, leaf after leaf, and with shardings
    only as far as a device of this host holds them.

    Args:
        directory: with `config.json` and safetensors.
        dtype: of the parameters; None for the widest in the files.
        shardings: a `jax.sharding.Sharding` for all parameters, or a tree of them as
            of the parameters.

    Returns:
        The configuration, whose end tokens are those of `generation_config.json` if
        there is one, and the parameters. Where the files hold a head that differs from
        the embedding, it is kept, whatever `tie_word_embeddings` says.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the model is not supported, or its files do not fit it: missing,
            unknown and mis-shaped tensors are listed.
    """
    directory = Path(directory)
    config = describe(directory)
    tensors = {
        name: tensor
        for name, tensor in safetensors.read(directory).items()
        if not name.endswith(NOT_WEIGHTS)
    }
    head, embed = tensors.get(OUTSIDE["head"]), tensors.get(OUTSIDE["embed"])
    if config.tied and head is not None and embed is not None:
        if np.array_equal(head, embed):
            del tensors[OUTSIDE["head"]]
        else:
            config = dataclasses.replace(config, tied=False)
    leaves = plan(config)
    _check(directory, leaves, tensors)
    if dtype is None:
        dtype = functools.reduce(jnp.promote_types, (x.dtype for x in tensors.values()))
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    found: Params = {"layers": {}}
    for leaf in leaves:
        read = functools.partial(_read, leaf, tensors, dtype)
        of = found["layers"] if leaf.stacked else found
        of[leaf.path[-1]] = placement.array(leaf.path, leaf.shape, read, shardings)
    return config, found


def save(
    directory: str | os.PathLike,
    config: TransformerConfig,
    params: Params,
    *,
    fields: Mapping[str, Any] | None = None,
    shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes what `transformers` loads: `config.json` and safetensors.

    Args:
        directory: is made if need be; it must not hold weights yet.
        config: of the model.
        params: its parameters; they keep their dtype.
        fields: of `config.json` beside those of the model, or of the file it was read
            from.
        shard_bytes: of the largest file, unless a tensor is larger; more than one have
            an index.

    Raises:
        FileExistsError: if there are weights, that readers could take for these.
        ValueError: if the parameters are not those of the configuration, or no
            architecture has its options.
    """
    directory, leaves = Path(directory), plan(config)
    described = {**(fields or {}), **to_huggingface(config)}
    arrays = _arrays(params, leaves)
    dtype = functools.reduce(jnp.promote_types, (x.dtype for x in arrays))
    described["dtype"] = described["torch_dtype"] = str(dtype)
    directory.mkdir(parents=True, exist_ok=True)
    if there := sorted(x.name for x in directory.glob("*.safetensors*")):
        raise FileExistsError(
            f"{directory} holds weights already: {', '.join(there)}. Save elsewhere, "
            "or move them."
        )
    tensors = dict(
        one for leaf, x in zip(leaves, arrays, strict=True) for one in _parts(leaf, x)
    )
    shards = _divided(tensors, shard_bytes)
    metadata = {"format": "pt"}  # what transformers asks for; nothing of torch is in it
    if len(shards) == 1:
        safetensors.write(directory / safetensors.SINGLE, tensors, metadata)
    else:
        index: dict[str, Any] = {
            "metadata": {"total_size": sum(x.bytes for x in tensors.values())},
            "weight_map": {},
        }
        for i, names in enumerate(shards):
            file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
            part = {name: tensors[name] for name in names}
            safetensors.write(directory / file, part, metadata)
            index["weight_map"] |= dict.fromkeys(names, file)
        _write_json(directory / safetensors.INDEX, index)
    _write_json(directory / "config.json", described)


def _read(
    leaf: Leaf, tensors: Mapping[str, np.ndarray], dtype: np.dtype, index: Index
) -> np.ndarray:
    """Reads what stands at an index of a leaf."""

    def one(name: str, index: Index) -> np.ndarray:
        tensor = tensors[name]
        return (tensor.T if leaf.transposed else tensor)[index]

    if not leaf.stacked:
        return np.array(one(leaf.names[0], index), dtype)
    layer = lambda i, index: one(leaf.names[i], index)
    return placement.stack(leaf.shape, dtype, index, layer)


def _parts(leaf: Leaf, x: jax.Array) -> Iterator[tuple[str, safetensors.Tensor]]:
    """Divides a leaf into the tensors that files have."""
    for i, name in enumerate(leaf.names):

        def make(i: int = i) -> np.ndarray:
            one = np.asarray(x[i] if leaf.stacked else x)
            return one.T if leaf.transposed else one

        yield name, safetensors.Tensor(np.dtype(x.dtype), leaf.shape_in_file, make)


def _arrays(params: Params, leaves: list[Leaf]) -> list[jax.Array]:
    """Returns the leaves in the order of the plan, if they are as it says."""
    given = {
        tuple(key.key for key in path): x
        for path, x in jax.tree_util.tree_leaves_with_path(params)
    }
    wished = {leaf.path: leaf.shape for leaf in leaves}
    found = {path: x.shape for path, x in given.items()}
    if wished != found:
        differing = sorted(
            x for x in {*wished, *found} if wished.get(x) != found.get(x)
        )
        lines = [
            f"{'/'.join(x)} is {found.get(x)} instead of {wished.get(x)}"
            for x in differing
        ]
        raise ValueError(
            f"The parameters are not those of the configuration: {_some(lines)}."
        )
    return [given[leaf.path] for leaf in leaves]


def _check(
    directory: Path, leaves: list[Leaf], tensors: Mapping[str, np.ndarray]
) -> None:
    """Raises if tensors are missing, unknown, of another shape or no floats."""
    wished = {name: leaf.shape_in_file for leaf in leaves for name in leaf.names}
    common = [name for name in wished if name in tensors]
    faults = {
        "lack": sorted(wished.keys() - tensors),
        "have unknown": sorted(tensors.keys() - wished),
        "have mis-shaped": [
            f"{x} {tensors[x].shape} instead of {wished[x]}"
            for x in common
            if tensors[x].shape != wished[x]
        ],
        "have quantised or integer": [
            f"{x} ({tensors[x].dtype})"
            for x in common
            if not jnp.issubdtype(tensors[x].dtype, jnp.floating)
        ],
    }
    said = [f"{what} {_some(names)}" for what, names in faults.items() if names]
    if said:
        raise ValueError(
            f"The weights in {directory} do not fit its config.json: they "
            f"{'; they '.join(said)}."
        )


def _some(names: list[str], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _divided(tensors: Mapping[str, safetensors.Tensor], most: int) -> list[list[str]]:
    """Divides tensors into files of so many bytes at most, in order."""
    files: list[list[str]] = [[]]
    size = 0
    for name, one in tensors.items():
        if files[-1] and size + one.bytes > most:
            files.append([])
            size = 0
        files[-1].append(name)
        size += one.bytes
    return files


def _write_json(path: Path, content: Any) -> None:
    whole = path.with_name(f".{path.name}.partial")
    whole.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    whole.replace(path)
