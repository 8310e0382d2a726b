"""The configuration of a Transformer, and how it is read from Hugging Face's fields."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
REQUIRED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
)


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary positions: theta, and how low frequencies are slowed for long contexts.

    Attributes:
        theta: base of the wavelengths, 2π theta^(2i/head_dim) tokens.
        kind: "none", "linear" (all divided by `factor`) or "llama3".
        factor: by which long wavelengths are slowed.
        low: wavelengths beyond original/low are slowed wholly.
        high: wavelengths below original/high are left alone.
        original: context, in tokens, before it was made longer.
    """

    theta: float = 10_000.0
    kind: str = "none"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192

    def __post_init__(self):
        if self.kind not in ("none", "linear", "llama3"):
            raise ValueError(
                f"RoPE of type {self.kind!r} is not supported: default, linear and "
                "llama3 are."
            )


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes and options of a Transformer: Llama, Qwen2, Qwen3.

    Attributes:
        width: of the residual stream.
        layers: number of blocks.
        heads: number of heads of queries.
        kv_heads: number of heads of keys and values, a divisor of `heads`.
        head_dim: width of a head, even.
        feedforward: width within the gated MLP.
        vocabulary: number of tokens.
        norm_eps: added to the mean square in RMSNorm.
        rope: rotary positions.
        tied: whether the head is the embedding, transposed.
        attention_bias: whether queries, keys and values have biases.
        output_bias: whether the attention's output has one.
        mlp_bias: whether the three matrices of the MLP have them.
        qk_norm: whether queries and keys are normalised, head by head.
        context: the most tokens it was made for.
        end_tokens: each of which ends a completion.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feedforward: int
    vocabulary: int
    norm_eps: float = 1e-6
    rope: Rope = Rope()
    tied: bool = False
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    context: int = 2048
    end_tokens: tuple[int, ...] = ()

    def __post_init__(self):
        sizes = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.type is int
        }
        wrong = {name: n for name, n in sizes.items() if type(n) is not int or n < 1}
        if wrong:
            raise ValueError(f"A Transformer's sizes are positive integers: {wrong}.")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"{self.heads} heads do not divide into groups for {self.kv_heads} "
                "heads of keys and values."
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even to rotate, got {self.head_dim}.")

    @property
    def family(self) -> str:
        """The model_type of Hugging Face with these options.

        Raises:
            ValueError: if none has this combination.
        """
        if self.qk_norm:
            family = "qwen3"
        elif self.attention_bias and not self.output_bias:
            family = "qwen2"
        else:
            family = "llama"
        if self != dataclasses.replace(self, **_options(family, _flags(self))):
            raise ValueError(
                f"No architecture of Hugging Face's has these options: {_flags(self)}."
            )
        return family


def from_huggingface(fields: Mapping[str, Any]) -> TransformerConfig:
    """Reads the content of a `config.json`, with the defaults of `transformers`.

    Args:
        fields: of a Llama, Qwen2 or Qwen3, as versions 4 and 5 write them.

    Raises:
        ValueError: if a field is missing, or asks for what is not supported: an
            architecture, activation, quantisation, RoPE type, or sliding windows.
    """
    family = fields.get("model_type")
    if family not in ARCHITECTURES:
        raise ValueError(
            f"Models of type {family!r} are not supported: {', '.join(ARCHITECTURES)} "
            "are."
        )
    missing = [name for name in REQUIRED if fields.get(name) is None]
    if missing:
        raise ValueError(f"config.json lacks {', '.join(missing)}.")
    sizes = {name: fields[name] for name in REQUIRED}
    if wrong := {x: n for x, n in sizes.items() if type(n) is not int or n < 1}:
        raise ValueError(f"A Transformer's sizes are positive integers: {wrong}.")
    _refuse(family, fields)
    given = {name: x for name, x in fields.items() if x is not None}
    heads, width = fields["num_attention_heads"], fields["hidden_size"]
    # Qwen without the field has 32 heads of keys and values; with null, all of them.
    kv_heads = heads if family == "llama" or "num_key_value_heads" in fields else 32
    head_dim = 128 if family == "qwen3" else width // heads
    ends = fields.get("eos_token_id", 2 if family == "llama" else None)
    context = given.get("max_position_embeddings", 2048 if family == "llama" else 32768)
    return TransformerConfig(
        width=width,
        layers=fields["num_hidden_layers"],
        heads=heads,
        kv_heads=given.get("num_key_value_heads", kv_heads),
        head_dim=given.get("head_dim", head_dim),
        feedforward=fields["intermediate_size"],
        vocabulary=fields["vocab_size"],
        norm_eps=float(given.get("rms_norm_eps", 1e-6)),
        rope=_rope(given, context),
        tied=bool(given.get("tie_word_embeddings", False)),
        context=context,
        end_tokens=end_tokens(ends),
        **_options(family, given),
    )


def to_huggingface(config: TransformerConfig) -> dict[str, Any]:
    """Returns the fields of a `config.json`, for versions 4 and 5 of `transformers`.

    Raises:
        ValueError: if no architecture has these options.
    """
    rope, family = config.rope, config.family
    scaling: dict[str, Any] = {"rope_type": "default"}
    if rope.kind != "none":
        scaling = {"rope_type": rope.kind, "factor": rope.factor}
    if rope.kind == "llama3":
        scaling["low_freq_factor"] = rope.low
        scaling["high_freq_factor"] = rope.high
        scaling["original_max_position_embeddings"] = rope.original
    ends = config.end_tokens
    fields = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "hidden_size": config.width,
        "intermediate_size": config.feedforward,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocabulary,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": rope.theta,
        "rope_scaling": None if rope.kind == "none" else scaling,
        "rope_parameters": {**scaling, "rope_theta": rope.theta},
        "tie_word_embeddings": config.tied,
        "hidden_act": "silu",
        "max_position_embeddings": config.context,
        "eos_token_id": ends[0] if len(ends) == 1 else list(ends) or None,
    }
    if family != "qwen2":
        fields["attention_bias"] = config.attention_bias
    if family == "llama":
        fields["mlp_bias"] = config.mlp_bias
    if family != "llama":
        fields["use_sliding_window"] = False
    return fields


def end_tokens(ids: int | list[int] | None) -> tuple[int, ...]:
    """Returns the tokens of an `eos_token_id`: one, several or none."""
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else tuple(ids)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} should hold an object, got {str(content)[:60]}.")
    return content


def _flags(config: TransformerConfig) -> dict[str, bool]:
    names = ("attention_bias", "output_bias", "mlp_bias", "qk_norm")
    return {name: getattr(config, name) for name in names}


def _options(family: str, fields: Mapping[str, Any]) -> dict[str, bool]:
    """What an architecture lets its fields choose, and what it fixes."""
    bias = bool(fields.get("attention_bias", False))
    return {
        "attention_bias": True if family == "qwen2" else bias,
        "output_bias": False if family == "qwen2" else bias,
        "mlp_bias": family == "llama" and bool(fields.get("mlp_bias", False)),
        "qk_norm": family == "qwen3",
    }


def _rope(fields: Mapping[str, Any], context: int) -> Rope:
    """Reads `rope_parameters`, or `rope_theta` and `rope_scaling` of older files."""
    of = {**fields.get("rope_scaling", {}), **fields.get("rope_parameters", {})}
    theta = float(of.get("rope_theta", fields.get("rope_theta", 10_000.0)))
    kind = of.get("rope_type", of.get("type", "default"))
    partial = of.get("partial_rotary_factor", fields.get("partial_rotary_factor", 1))
    if partial != 1:
        raise ValueError(
            f"A partial_rotary_factor of {partial} is not supported: only whole heads "
            "are rotated."
        )
    if kind in ("default", "none"):
        return Rope(theta)
    if kind != "llama3":
        return Rope(theta, kind, float(of.get("factor", 1.0)))
    names = ("factor", "low_freq_factor", "high_freq_factor")
    missing = [name for name in names if name not in of]
    if missing:
        raise ValueError(f"RoPE of type llama3 lacks {', '.join(missing)}.")
    original = of.get("original_max_position_embeddings", context)
    factor, low, high = (float(of[name]) for name in names)
    return Rope(theta, kind, factor, low, high, original)


def _refuse(family: str, fields: Mapping[str, Any]) -> None:
    """Raises for what would be computed otherwise than the file asks for."""
    activation = fields.get("hidden_act") or "silu"
    if activation != "silu":
        raise ValueError(f"The activation {activation!r} is not supported: silu is.")
    if fields.get("quantization_config") is not None:
        raise ValueError("Quantised weights (quantization_config) are not supported.")
    kinds = set(fields.get("layer_types") or ()) - {"full_attention"}
    windows = fields.get("use_sliding_window") and fields.get("sliding_window", 4096)
    first = fields.get("max_window_layers", 28)
    if not fields.get("layer_types") and windows and family != "llama":
        kinds = {"sliding_attention"} if first < fields["num_hidden_layers"] else set()
    if kinds:
        raise ValueError(
            f"Layers of type {', '.join(sorted(kinds))} are not supported: "
            "full_attention is."
        )
