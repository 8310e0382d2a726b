"""Adapters in the layout of PEFT: what is added to a Transformer's matrices, thinly.

A directory with `adapter_config.json` and `adapter_model.safetensors`, as servers of
models load beside the checkpoint that it is for. Of a linear map, stored as (outputs,
inputs), it has B (outputs, r) and A (r, inputs), and W + (lora_alpha / r) B A is meant
(LoRA, arXiv 2106.09685). Here a matrix is (inputs, outputs), and a pair of factors adds
left @ rightᵀ: A = leftᵀ, B = right, lora_alpha = r.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.llm import safetensors
from models.llm.config import TransformerConfig, read_json
from models.llm.names import OUTSIDE, plan
from models.llm.transformer import Params


CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
EMBEDDING = (".lora_embedding_A", ".lora_embedding_B")
LINEAR = (".lora_A.weight", ".lora_B.weight")
# Options that mean more than factors, with the values at which they do not.
PLAIN = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": ([], None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "lora_bias": (False, None),
    "trainable_token_indices": ([], {}, None),
}

# Of a matrix, by the path of its leaf ("layers/q"): left (*layers, rows, r) and right
# (*layers, columns, r), of which left @ rightᵀ is added.
Pair = tuple[np.ndarray, np.ndarray]


class Place(NamedTuple):
    """A matrix that an adapter may change.

    Attributes:
        path: of the leaf.
        shape: of the matrix, (rows, columns).
        layer: which of the leaf's, if it is a stack.
        names: of A and of B.
        turned: whether B A is added to the matrix itself, and not to its transpose: a
            head tied to the embedding is stored as that.
    """

    path: str
    shape: tuple[int, ...]
    layer: int | None
    names: tuple[str, str]
    turned: bool = False


def places(config: TransformerConfig) -> list[Place]:
    """Says where an adapter has the factors of each matrix; of the rest it has none."""
    found = []
    for leaf in plan(config):
        path = "/".join(leaf.path)
        if not leaf.transposed and path != "embed":
            continue
        kind = EMBEDDING if path == "embed" else LINEAR
        for i, name in enumerate(leaf.names):
            layer = i if leaf.stacked else None
            found.append(Place(path, leaf.shape[-2:], layer, _names(name, kind)))
    if config.tied:
        shape, head = (config.vocabulary, config.width), _names(OUTSIDE["head"], LINEAR)
        found.append(Place("embed", shape, None, head, turned=True))
    return found


def merged(params: Params, factors: Mapping[str, tuple[Any, Any]]) -> Params:
    """Returns the parameters with the products of the factors added to them."""

    def leaf(path: Any, x: jax.Array) -> jax.Array:
        pair = factors.get("/".join(key.key for key in path))
        if pair is None:
            return x
        left, right = (jnp.asarray(one, jnp.float32) for one in pair)
        return (x + left @ jnp.swapaxes(right, -1, -2)).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, params)


def write(
    directory: str | os.PathLike,
    config: TransformerConfig,
    factors: Mapping[str, tuple[Any, Any] | None],
    *,
    base: str,
) -> None:
    """Writes an adapter, float32.

    Leaves of a lower rank than others are filled up with zeros: not all servers read a
    rank for each. A tied head is adapted as the embedding is, beside it: apply such an
    adapter, and do not merge it with PEFT, which would add both to the one matrix.

    Args:
        directory: is made if need be; it must not hold an adapter yet.
        config: of the model.
        factors: of leaves by path, as `places` has them: left (*layers, rows, r) and
            right (*layers, columns, r), of which left @ rightᵀ is added. None stands
            for a leaf that changes otherwise.
        base: name or path of the checkpoint that it is for.

    Raises:
        FileExistsError: if there is an adapter.
        ValueError: if a leaf changes in a way that an adapter cannot hold, if none
            does, or if factors are of other shapes than the model's.
    """
    directory = Path(directory)
    pairs = _held(config, factors)
    rank = max(left.shape[-1] for left, _ in pairs.values())
    tensors = {}
    for place in places(config):
        if place.path in pairs:
            at = () if place.layer is None else place.layer
            left, right = (_filled(x[at], rank) for x in pairs[place.path])
            b, a = (left, right) if place.turned else (right, left)
            tensors |= dict(zip(place.names, (a.T, b), strict=True))
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / WEIGHTS).exists():
        raise FileExistsError(f"{directory} holds an adapter already. Write elsewhere.")
    made = {
        name: safetensors.Tensor(x.dtype, x.shape, lambda x=x: x)
        for name, x in tensors.items()
    }
    safetensors.write(directory / WEIGHTS, made, {"format": "pt"})
    modules = {name.partition(".lora_")[0].rpartition(".")[2] for name in tensors}
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,  # so that B A is multiplied by one
        "target_modules": sorted(modules),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    text = json.dumps(described, indent=2) + "\n"
    (directory / CONFIG).write_text(text, encoding="utf-8")


def read(directory: str | os.PathLike, config: TransformerConfig) -> dict[str, Pair]:
    """Reads an adapter of PEFT's; what scales it is put into `right`.

    Args:
        directory: that holds it.
        config: of the model that it is for.

    Returns:
        Factors by path; layers that it leaves alone have zeros.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if it is for another model, or does more than add products.
    """
    directory = Path(directory)
    scale = _scale(directory / CONFIG)
    tensors = dict(safetensors.read(directory / WEIGHTS))
    layers: dict[str, list[Pair | None]] = {}
    for place in places(config):
        pair = _popped(directory, place, tensors)
        layers.setdefault(place.path, []).append(pair)
    if tensors:
        raise ValueError(
            f"{directory} adapts what this model has not: {', '.join(sorted(tensors))}."
        )
    if config.tied:
        embed, head = layers["embed"]
        if (embed is None) != (head is None) or not all(
            np.array_equal(*x) for x in zip(embed or (), head or (), strict=True)
        ):
            raise ValueError(
                f"{directory} adapts the embedding and the head that is tied to it in "
                "two ways. Untie the model first."
            )
        layers["embed"] = [embed]
    return {
        path: _stacked(pairs, scale, lone=not path.startswith("layers/"))
        for path, pairs in layers.items()
        if any(pair is not None for pair in pairs)
    }


def _filled(x: np.ndarray, rank: int) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, rank - x.shape[1])))


def _stacked(pairs: Sequence[Pair | None], scale: float, *, lone: bool) -> Pair:
    """The factors of a leaf, of those of its layers; zeros where there are none."""
    first = next(pair for pair in pairs if pair is not None)
    none = tuple(np.zeros_like(x) for x in first)
    lefts, rights = zip(*(none if x is None else x for x in pairs), strict=True)
    left, right = np.stack(lefts), scale * np.stack(rights)
    return (left[0], right[0]) if lone else (left, right)


def _names(tensor: str, kind: tuple[str, str]) -> tuple[str, str]:
    module = PREFIX + tensor.removesuffix(".weight")
    return module + kind[0], module + kind[1]


def _held(
    config: TransformerConfig, factors: Mapping[str, tuple[Any, Any] | None]
) -> dict[str, Pair]:
    """Returns the factors as arrays, if an adapter can hold them."""
    leaves = {"/".join(leaf.path): leaf.shape for leaf in plan(config)}
    if not factors:
        raise ValueError("an adapter needs factors of one leaf at least.")
    able = {place.path for place in places(config)}
    unable = [name for name, x in factors.items() if x is None or name not in able]
    if unable:
        raise ValueError(
            f"an adapter holds what is added to matrices as products of factors, and "
            f"{', '.join(unable)} changed otherwise: freeze them by a rule, or write "
            "the whole model."
        )
    pairs = {}
    for name, pair in factors.items():
        assert pair is not None
        left, right = (np.asarray(x, np.float32) for x in pair)
        *layers, rows, columns = leaves[name]
        wanted = (*layers, rows), (*layers, columns)
        if (left.shape[:-1], right.shape[:-1]) != wanted or (
            left.shape[-1:] != right.shape[-1:]
        ):
            raise ValueError(
                f"{name} has factors of shapes {left.shape} and {right.shape}: "
                f"expected {(*wanted[0], 'r')} and {(*wanted[1], 'r')}."
            )
        pairs[name] = left, right
    return pairs


def _scale(path: Path) -> float:
    """What B A is multiplied by, if the adapter is nothing but that."""
    fields = read_json(path)
    wrong = [k for k, plain in PLAIN.items() if fields.get(k) not in plain]
    if wrong:
        said = ", ".join(f"{k} {fields.get(k)!r}" for k in wrong)
        raise ValueError(f"{path} asks for what is not supported: {said}.")
    rank, alpha = fields.get("r"), fields.get("lora_alpha")
    if type(rank) is not int or rank < 1 or not isinstance(alpha, int | float):
        raise ValueError(
            f"{path} needs numbers for r and lora_alpha, got {rank!r} and {alpha!r}."
        )
    return alpha / (math.sqrt(rank) if fields.get("use_rslora") else rank)


def _popped(
    directory: Path, place: Place, tensors: dict[str, np.ndarray]
) -> Pair | None:
    """Takes a matrix's factors out of the tensors; None if it is left alone."""
    a, b = (tensors.pop(name, None) for name in place.names)
    if a is None and b is None:
        return None
    rows, columns = place.shape[::-1] if place.turned else place.shape
    if (
        a is None
        or b is None
        or (a.shape, b.shape)
        != (
            (a.shape[0], rows),
            (columns, a.shape[0]),
        )
    ):
        shapes = [None if x is None else x.shape for x in (a, b)]
        raise ValueError(
            f"{directory}: expected {place.names[0]} and its B of shapes (r, {rows}) "
            f"and ({columns}, r), got {shapes[0]} and {shapes[1]}."
        )
    left, right = a.T.astype(np.float32), b.astype(np.float32)
    return (right, left) if place.turned else (left, right)
