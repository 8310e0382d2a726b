"""GGUF to the transformer: architectures llama, qwen2 and qwen3.

The tensors' names are those of llama.cpp's converter. It stores the rows of `llama`'s
query and key matrices such that the two halves of a head, which rotary embeddings turn
into each other, interleave; `unpermuted` undoes that.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

from models.llm import placement
from models.llm.config import TransformerConfig
from models.llm.gguf_config import ROPE_DIVISORS, config
from models.llm.gguf_file import File, read
from models.llm.placement import Index
from models.llm.transformer import Params


INTERLEAVED = ("llama",)


def load(
    path: str | Path, *, dtype: DTypeLike = np.float32, shardings: Any = None
) -> tuple[TransformerConfig, Params]:
    """A model and its parameters, dequantised.

    Args:
        path: a GGUF file.
        dtype: of the parameters, float32 or bfloat16.
        shardings: a `jax.sharding.Sharding` for all parameters, or a tree of them as
            of the parameters; what no device of this host holds is not read.

    Raises:
        ValueError: the file is damaged, its model is not supported, or tensors are
            missing, too many or of other shapes than the metadata say.
    """
    file = read(path)
    shape = config(file)
    return shape, parameters(file, shape, dtype, shardings)


class Part(NamedTuple):
    """A tensor of the file, or one of each layer.

    Attributes:
        name: in the file, `{}` standing for the layer.
        shape: in the file, in C order: matrices are (out, in).
        heads: how many heads' rows are interleaved, 0 if none are.
        turned: whether the model's weight is its transpose.
    """

    name: str
    shape: tuple[int, ...]
    heads: int = 0
    turned: bool = False


def layer_parts(config: TransformerConfig, interleaved: bool) -> dict[str, Part]:
    """The tensors of each layer, by the names of the model's parameters."""
    width, inner = config.width, config.feedforward
    of_q, of_kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    maps = {
        "q": ("attn_q", of_q, width, config.attention_bias),
        "k": ("attn_k", of_kv, width, config.attention_bias),
        "v": ("attn_v", of_kv, width, config.attention_bias),
        "o": ("attn_output", width, of_q, config.output_bias),
        "gate": ("ffn_gate", inner, width, config.mlp_bias),
        "up": ("ffn_up", inner, width, config.mlp_bias),
        "down": ("ffn_down", width, inner, config.mlp_bias),
    }
    heads = {"q": config.heads, "k": config.kv_heads} if interleaved else {}
    parts = {
        "attention_norm": Part("blk.{}.attn_norm.weight", (width,)),
        "mlp_norm": Part("blk.{}.ffn_norm.weight", (width,)),
    }
    for key, (name, out, into, biased) in maps.items():
        many = heads.get(key, 0)
        parts[key] = Part(f"blk.{{}}.{name}.weight", (out, into), many, True)
        if biased:
            parts[f"{key}_bias"] = Part(f"blk.{{}}.{name}.bias", (out,), many)
    if config.qk_norm:
        parts["q_norm"] = Part("blk.{}.attn_q_norm.weight", (config.head_dim,))
        parts["k_norm"] = Part("blk.{}.attn_k_norm.weight", (config.head_dim,))
    return parts


def whole_parts(config: TransformerConfig) -> dict[str, Part]:
    """The tensors that are there once, by the names of the model's parameters."""
    table = (config.vocabulary, config.width)
    parts = {
        "embed": Part("token_embd.weight", table),
        "norm": Part("output_norm.weight", (config.width,)),
    }
    if not config.tied:
        parts["head"] = Part("output.weight", table, turned=True)
    return parts


def parameters(
    file: File,
    config: TransformerConfig,
    dtype: DTypeLike = np.float32,
    shardings: Any = None,
) -> Params:
    """The parameters of the model, layers stacked, one copy of each in memory.

    Raises:
        ValueError: tensors are missing, too many or of other shapes.
    """
    interleaved = file.get("general.architecture", str) in INTERLEAVED
    layered, whole = layer_parts(config, interleaved), whole_parts(config)
    check(file, config.layers, layered, whole)
    params: Params = {"layers": {}}
    for key, part in whole.items():
        read = functools.partial(weight, file, part, dtype)
        params[key] = placement.array((key,), shape_of(part), read, shardings)
    for key, part in layered.items():
        shape = (config.layers, *shape_of(part))
        read = functools.partial(weights, file, part, dtype, shape)
        path = ("layers", key)
        params["layers"][key] = placement.array(path, shape, read, shardings)
    return params


def shape_of(part: Part) -> tuple[int, ...]:
    """That of a weight as the model has it."""
    return part.shape[::-1] if part.turned else part.shape


def weights(
    file: File, part: Part, dtype: DTypeLike, shape: tuple[int, ...], index: Index
) -> Float[np.ndarray, "layers ..."]:
    """Some weights of some layers, as the model has them, layers first."""
    name = part.name
    layer = lambda i, index: weight(
        file, part._replace(name=name.format(i)), dtype, index
    )
    return placement.stack(shape, dtype, index, layer)


def weight(
    file: File, part: Part, dtype: DTypeLike, index: Index
) -> Float[np.ndarray, "..."]:
    """What stands at an index of a weight as the model has it.

    Of heads whose rows are interleaved, whole ones are read.
    """
    rows, *columns = index[::-1] if part.turned else index
    size = part.shape[0] // part.heads if part.heads else 1
    start, stop, _ = rows.indices(part.shape[0])
    first, last = start // size, -(-stop // size)
    tensor = file.tensor(part.name, (slice(first * size, last * size), *columns))
    if part.heads:
        tensor = unpermuted(tensor, last - first)
        tensor = tensor[start - first * size : stop - first * size]
    return (tensor.T if part.turned else tensor).astype(dtype)


def unpermuted(
    rows: Float[np.ndarray, "rows *rest"], heads: int
) -> Float[np.ndarray, "rows *rest"]:
    """Rows of heads whose halves stood interleaved, the first half first again.

    Of a head of 2h rows, the file has rows 0, h, 1, h + 1, ..., h - 1, 2h - 1.
    """
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def check(
    file: File, layers: int, layered: Mapping[str, Part], whole: Mapping[str, Part]
) -> None:
    """Raises unless the file has just the tensors of the model, in their shapes."""
    if layers > len(file.records):
        raise ValueError(f"{file.path}: {layers} layers, {len(file.records)} tensors")
    wanted = {part.name: part.shape for part in whole.values()}
    for layer in range(layers):
        wanted |= {part.name.format(layer): part.shape for part in layered.values()}
    found = {name: one.shape for name, one in file.records.items()}
    found.pop(ROPE_DIVISORS, None)
    wrong = [
        f"{name} is {found[name]}, not {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    lists = {
        "missing": [*(wanted.keys() - found.keys())],
        "not of this model": [*(found.keys() - wanted.keys())],
        "of another shape": wrong,
    }
    said = [f"{what}: {some(names)}" for what, names in lists.items() if names]
    if said:
        raise ValueError(f"{file.path}: tensors {'; '.join(said)}")


def some(names: list[str], most: int = 5) -> str:
    """The first of some names, and how many there are besides."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:80] for name in sorted(names)[:most]) + more
