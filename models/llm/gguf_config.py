"""The configuration of a model in a GGUF file, from its metadata.

The keys are those that llama.cpp reads (docs/gguf.md of ggml, and llama-arch.cpp of
llama.cpp for their defaults).
"""

import math

import numpy as np

from models.llm.config import Rope, TransformerConfig
from models.llm.gguf_file import File


ARCHITECTURES = ("llama", "qwen2", "qwen3")
ROPE_DIVISORS = "rope_freqs.weight"
# Names of tokens after which a turn is over, whatever the metadata call the end.
ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>")
CONTROL = 3  # the type of tokens that are no text


def config(file: File) -> TransformerConfig:
    """The model that a file holds.

    Raises:
        ValueError: the architecture, or something it uses, is not supported.
    """
    architecture = file.get("general.architecture", str)
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"{file.path}: the architecture is {architecture[:40]!r}; "
            f"{', '.join(ARCHITECTURES)} are supported"
        )
    refuse_what_is_not_done(file, architecture)
    size = lambda name, *default: positive(file, f"{architecture}.{name}", *default)
    width, heads = size("embedding_length"), size("attention.head_count")
    head_dim = size("attention.key_length", max(width // heads, 1))
    kv_heads = size("attention.head_count_kv", heads)
    if heads % kv_heads:
        raise ValueError(
            f"{file.path}: {heads} heads do not divide into {kv_heads} groups"
        )
    has = file.records.__contains__
    return TransformerConfig(
        width=width,
        layers=size("block_count"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        feedforward=size("feed_forward_length"),
        vocabulary=len(file.get("tokenizer.ggml.tokens", list)),
        norm_eps=file.get(f"{architecture}.attention.layer_norm_rms_epsilon", float),
        rope=rope(file, architecture, head_dim),
        tied=not has("output.weight"),
        attention_bias=architecture == "qwen2" or has("blk.0.attn_q.bias"),
        output_bias=has("blk.0.attn_output.bias"),
        mlp_bias=has("blk.0.ffn_gate.bias"),
        qk_norm=architecture == "qwen3",
        context=size("context_length"),
        end_tokens=end_tokens(file),
    )


def positive(file: File, key: str, default: int | None = None) -> int:
    """A size from the metadata, at least 1."""
    value = file.get(key, int, default)
    if value < 1:
        raise ValueError(f"{file.path}: {key} should be at least 1, is {value}")
    return value


def refuse_what_is_not_done(file: File, architecture: str) -> None:
    """Raises for a part of a model, a mixture of experts or a sliding window."""
    get = lambda name, kind=int: file.get(name, kind, kind())
    if get("split.count") > 1:
        raise ValueError(
            f"{file.path}: one of {get('split.count')} parts; join them first, "
            "with llama-gguf-split --merge"
        )
    if get(f"{architecture}.expert_count"):
        raise ValueError(f"{file.path}: a mixture of experts is not supported")
    window = get(f"{architecture}.attention.sliding_window")
    if 0 < window < positive(file, f"{architecture}.context_length"):
        raise ValueError(f"{file.path}: a sliding window ({window}) is not supported")
    length = get(f"{architecture}.attention.key_length")
    if get(f"{architecture}.attention.value_length") not in (0, length):
        raise ValueError(f"{file.path}: keys and values of different lengths")


def rope(file: File, architecture: str, head_dim: int) -> Rope:
    """The rotary embedding that a file describes."""
    name = f"{architecture}.rope"
    turned = positive(file, f"{name}.dimension_count", head_dim)
    if turned != head_dim or head_dim % 2:
        raise ValueError(
            f"{file.path}: a rotary embedding of {turned} of a head's {head_dim} "
            "dimensions is not supported"
        )
    theta = file.get(f"{name}.freq_base", float, 10_000.0)
    kind = file.get(f"{name}.scaling.type", str, "linear")
    if kind not in ("none", "linear"):
        raise ValueError(
            f"{file.path}: {name}.scaling.type is {kind[:40]!r}; none, linear and "
            f"the tensor {ROPE_DIVISORS} are supported"
        )
    older = file.get(f"{name}.scale_linear", float, 1.0)
    factor = file.get(f"{name}.scaling.factor", float, older)
    scaled = kind == "linear" and factor not in (0.0, 1.0)
    if not (0 < theta < math.inf and 0 <= factor < math.inf):
        raise ValueError(f"{file.path}: {name} has theta {theta}, factor {factor}")
    if ROPE_DIVISORS not in file.records:
        return Rope(theta, "linear", factor) if scaled else Rope(theta)
    if scaled:
        raise ValueError(f"{file.path}: both {ROPE_DIVISORS} and a scaling factor")
    return llama3(file, theta, head_dim)


def llama3(file: File, theta: float, head_dim: int) -> Rope:
    """Llama 3's scaling, recovered from the divisors of the frequencies.

    With wavelengths λ, one over a divisor is (1 - s)/factor + s, where s is
    (original/λ - low)/(high - low) within 0 and 1. The files hold the divisors alone.
    As s determines the three numbers up to a common scale, low is 1.
    """
    if file.records[ROPE_DIVISORS].shape != (head_dim // 2,):
        raise ValueError(
            f"{file.path}: {ROPE_DIVISORS} has not {head_dim // 2} numbers"
        )
    divisors = file.tensor(ROPE_DIVISORS).astype(np.float64)
    if not np.all(divisors >= 1) or not np.isfinite(divisors).all():
        raise ValueError(f"{file.path}: {ROPE_DIVISORS} has numbers below 1")
    factor = divisors.max()
    if factor == 1:
        return Rope(theta)
    turns = theta ** (-np.arange(0, head_dim, 2) / head_dim) / (2 * math.pi)  # 1/λ
    share = (1 / divisors - 1 / factor) / (1 - 1 / factor)
    between = (share > 1e-4) & (share < 1 - 1e-4)
    guesses = [(4.0, 8192)]  # Llama 3.1's
    if between.sum() >= 2:
        slope, start = np.polyfit(turns[between], share[between], 1)
        guesses = [(round(1 - 1 / start, 3), round(-slope / start)), *guesses]
    for high, original in guesses:
        s = np.clip((original * turns - 1) / (high - 1), 0, 1)
        if np.allclose((1 - s) / factor + s, 1 / divisors, rtol=1e-4):
            return Rope(theta, "llama3", float(factor), 1.0, high, original)
    raise ValueError(f"{file.path}: {ROPE_DIVISORS} does not follow Llama 3's rule")


def end_tokens(file: File) -> tuple[int, ...]:
    """The tokens that end a turn, the one that the metadata call the end first."""
    tokens = file.get("tokenizer.ggml.tokens", list)
    kinds = file.get("tokenizer.ggml.token_type", np.ndarray, np.zeros(0, int))
    named = [
        file.get(f"tokenizer.ggml.{name}_token_id", int, -1)
        for name in ("eos", "eot", "eom")
    ]
    special = np.flatnonzero(kinds[: len(tokens)] == CONTROL)
    named += [int(index) for index in special if tokens[index] in ENDS]
    return tuple(dict.fromkeys(one for one in named if 0 <= one < len(tokens)))
