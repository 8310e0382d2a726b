"""Tiny GGUF files of random numbers, and what llama.cpp would compute from them."""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np


ALIGNMENT = 32
TOKENS = [
    *"abcdefghijklmnopqrstuvwxyzĠ",
    "th",
    "the",
    "Ġthe",
    "<|im_start|>",
    "<|im_end|>",
]
MERGES = ["t h", "th e", "Ġ the"]


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def typed(value: Any) -> tuple[int, bytes]:
    """A value's type and its bytes."""
    match value:
        case bool():
            return 7, struct.pack("<?", value)
        case int():
            return 4, struct.pack("<I", value)
        case float():
            return 6, struct.pack("<f", value)
        case str():
            return 8, text(value)
        case list():
            raw = b"".join(map(text, value))
            return 9, struct.pack("<IQ", 8, len(value)) + raw
    raw = np.asarray(value, np.int32)
    return 9, struct.pack("<IQ", 5, len(raw)) + raw.tobytes()


def record(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    """What a file says of a tensor; the shape in C order."""
    dimensions = struct.pack(f"<{len(shape)}Q", *shape[::-1])
    count = struct.pack("<I", len(shape))
    return text(name) + count + dimensions + struct.pack("<IQ", kind, offset)


def content(
    metadata: dict[str, Any], tensors: dict[str, Any], version: int = 3
) -> bytes:
    """A file: tensors are float32 arrays, or triples of type, shape and bytes."""
    pairs = b""
    for key, value in metadata.items():
        kind, raw = typed(value)
        pairs += text(key) + struct.pack("<I", kind) + raw
    records, data = b"", b""
    for name, tensor in tensors.items():
        if isinstance(tensor, np.ndarray):
            tensor = (0, tensor.shape, tensor.astype("<f4").tobytes())
        kind, shape, raw = tensor
        records += record(name, shape, kind, len(data))
        data += raw + bytes(-len(raw) % ALIGNMENT)
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += pairs + records
    return head + bytes(-len(head) % ALIGNMENT) + data


def write(path: Path, *parts: Any, **options: Any) -> Path:
    path.write_bytes(content(*parts, **options))
    return path


def vocabulary(rule: str = "gpt-2", **others: Any) -> dict[str, Any]:
    """The metadata of a tokenizer of a few words."""
    values = {
        "model": "gpt2",
        "pre": rule,
        "tokens": TOKENS,
        "token_type": [3 if token.startswith("<") else 1 for token in TOKENS],
        "merges": MERGES,
        "bos_token_id": TOKENS.index("<|im_start|>"),
        "eos_token_id": TOKENS.index("<|im_end|>"),
        **others,
    }
    values["token_type"] = np.asarray(values["token_type"], np.int32)
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()}


def tiny(
    architecture: str = "llama",
    *,
    heads: int = 2,
    kv_heads: int | None = 1,
    head_dim: int = 8,
    key_length: bool = True,
    biases: tuple[str, ...] = (),
    tied: bool = True,
    seed: int = 0,
    **others: Any,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The metadata and tensors of a model of two layers."""
    draw = np.random.default_rng(seed)
    width, inner, layers, tokens = 16, 24, 2, len(TOKENS)
    sizes = {
        "block_count": layers,
        "context_length": 256,
        "embedding_length": width,
        "feed_forward_length": inner,
        "attention.head_count": heads,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 100.0,
    }
    if kv_heads:
        sizes["attention.head_count_kv"] = kv_heads
    if key_length:
        sizes["attention.key_length"] = head_dim
    metadata: dict[str, Any] = {"general.architecture": architecture}
    metadata |= {f"{architecture}.{key}": x for key, x in (sizes | others).items()}
    of_q, of_kv = heads * head_dim, (kv_heads or heads) * head_dim
    shapes = {"attn_norm": (width,), "ffn_norm": (width,), "attn_q": (of_q, width)}
    shapes |= {"attn_k": (of_kv, width), "attn_v": (of_kv, width)}
    shapes |= {"attn_output": (width, of_q), "ffn_down": (width, inner)}
    shapes |= {"ffn_gate": (inner, width), "ffn_up": (inner, width)}
    if architecture == "qwen3":
        shapes |= {"attn_q_norm": (head_dim,), "attn_k_norm": (head_dim,)}
    if architecture == "qwen2":
        biases = ("attn_q", "attn_k", "attn_v")
    tensors = {"token_embd.weight": draw.normal(size=(tokens, width))}
    for layer in range(layers):
        for name, shape in shapes.items():
            value = draw.normal(size=shape) / math.sqrt(shape[-1])
            if len(shape) == 1:
                value = 1 + 0.3 * draw.normal(size=shape)
            tensors[f"blk.{layer}.{name}.weight"] = value
            if name in biases:
                tensors[f"blk.{layer}.{name}.bias"] = draw.normal(size=shape[:1])
    tensors["output_norm.weight"] = 1 + 0.3 * draw.normal(size=width)
    if not tied:
        tensors["output.weight"] = draw.normal(size=(tokens, width))
    return metadata | vocabulary(), {k: x.astype("f4") for k, x in tensors.items()}


def llama3_divisors(
    theta: float, head_dim: int, factor: float, low: float, high: float, original: int
) -> np.ndarray:
    """By what Llama 3's rule divides the frequencies, one after the other."""
    divisors = []
    for i in range(head_dim // 2):
        wavelength = 2 * math.pi * theta ** (2 * i / head_dim)
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, np.float32)


def logits(
    metadata: dict[str, Any], tensors: dict[str, np.ndarray], tokens: list[int]
) -> np.ndarray:
    """What llama.cpp's graph computes, in float64, from the tensors as they stand.

    It turns neighbouring rows of `llama` into each other, and rows half a head apart
    of the others: nothing is permuted here.
    """
    architecture = metadata["general.architecture"]
    get = lambda key, default=None: metadata.get(f"{architecture}.{key}", default)
    heads = get("attention.head_count")
    kv_heads = get("attention.head_count_kv", heads)
    head_dim = get("attention.key_length", get("embedding_length") // heads)
    eps = np.float32(get("attention.layer_norm_rms_epsilon"))
    weights = {name: x.astype(np.float64) for name, x in tensors.items()}

    def norm(x, name):
        mean = np.mean(x**2, axis=-1, keepdims=True)
        return x / np.sqrt(mean + eps) * weights[f"{name}.weight"]

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    def turn(x):
        i = np.arange(head_dim // 2)
        speed = get("rope.freq_base") ** (-2 * i / head_dim)
        speed = speed / get("rope.scaling.factor", 1.0)
        speed = speed / weights.get("rope_freqs.weight", 1)
        angle = np.arange(len(x))[:, None] * speed
        one, two = (2 * i, 2 * i + 1)
        if architecture != "llama":
            one, two = (i, i + head_dim // 2)
        a, b = x[..., one], x[..., two]
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        out = np.empty_like(x)
        out[..., one], out[..., two] = a * cos - b * sin, a * sin + b * cos
        return out

    x = weights["token_embd.weight"][tokens]
    for layer in range(get("block_count")):
        at = f"blk.{layer}"
        y = norm(x, f"{at}.attn_norm")
        split = lambda z: z.reshape(len(tokens), -1, head_dim)
        q, k, v = (split(linear(y, f"{at}.attn_{one}")) for one in "qkv")
        if architecture == "qwen3":
            q, k = norm(q, f"{at}.attn_q_norm"), norm(k, f"{at}.attn_k_norm")
        q, k = turn(q), turn(k)
        k, v = (np.repeat(z, heads // kv_heads, axis=1) for z in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(head_dim)
        scores += np.triu(np.full(scores.shape[1:], -np.inf), 1)
        share = np.exp(scores - scores.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        mixed = np.einsum("hij,jhd->ihd", share, v).reshape(len(tokens), -1)
        x = x + linear(mixed, f"{at}.attn_output")
        y = norm(x, f"{at}.ffn_norm")
        gate = linear(y, f"{at}.ffn_gate")
        inner = gate / (1 + np.exp(-gate)) * linear(y, f"{at}.ffn_up")
        x = x + linear(inner, f"{at}.ffn_down")
    head = "output" if "output.weight" in weights else "token_embd"
    return linear(norm(x, "output_norm"), head)
