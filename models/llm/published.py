"""Language models as their makers publish them: sizes, and the files they come in.

For what is wanted of a model before its weights are there: how large it is, and what
to fetch. The sizes of Transformers are the fields of their `config.json`, with the end
tokens of `generation_config.json`; models before and after their training to converse
have the same. Files are those of the model that converses, on huggingface.co.

RWKV-7's heads are 64 wide, its feed-forward width is 4 C for a width C, and it knows
65,536 tokens. Layers, widths and ranks up to 2.9B make the numbers of parameters in the
paper's table. Those of 7B and 14B, which the paper has not, are what others list of the
files' shapes (of 14B, of a later training of the same model); none was read here. The
rule of its authors,

    decay, rate: 1.8 √C     value: 1.3 √C     gate: 0.6 C^0.8

rounded to the nearest multiple of 32, gives all ranks but the gate's of 0.4B and those
of 14B.

References:
    Peng et al., "RWKV-7 Goose with expressive dynamic state evolution" (2025),
    https://arxiv.org/abs/2503.14456, table of model sizes.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from models.llm import safetensors
from models.llm.config import Rope, TransformerConfig
from models.llm.interface import LanguageModel
from models.llm.rwkv7 import RWKV7
from models.llm.rwkv7_config import RWKV7Config
from models.llm.transformer import Transformer


class Published(NamedTuple):
    """A model that can be fetched.

    Attributes:
        model: its sizes and options.
        hub: its repository on huggingface.co.
        files: those of the repository that are read: weights and, of a Transformer,
            configuration and tokenizer.
    """

    model: LanguageModel
    hub: str
    files: tuple[str, ...]


BESIDE = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


def _transformer(hub: str, shards: int, **fields) -> Published:
    weights: tuple[str, ...] = (safetensors.SINGLE,)
    if shards > 1:
        of = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
        weights = (safetensors.INDEX, *of)
    config = TransformerConfig(**fields, tied=True)
    return Published(Transformer(config), hub, (*BESIDE, *weights))


def _qwen(name: str, shards: int, width: int, layers: int, **fields) -> Published:
    return _transformer(
        f"Qwen/{name}",
        shards,
        width=width,
        layers=layers,
        vocabulary=151_936,
        norm_eps=1e-6,
        rope=Rope(1e6),
        end_tokens=(151_645, 151_643),
        **fields,
    )


def _qwen2(name: str, shards: int, width: int, layers: int, heads: int, inner: int):
    return _qwen(
        name,
        shards,
        width,
        layers,
        heads=heads,
        kv_heads=2,
        head_dim=width // heads,
        feedforward=inner,
        attention_bias=True,
        context=32_768,
    )


def _qwen3(name: str, shards: int, width: int, layers: int, heads: int, inner: int):
    return _qwen(
        name,
        shards,
        width,
        layers,
        heads=heads,
        kv_heads=8,
        head_dim=128,
        feedforward=inner,
        qk_norm=True,
        context=40_960,
    )


def _rwkv7(hub: str, file: str, width: int, layers: int, ranks: tuple[int, int, int]):
    decay, value, gate = ranks
    config = RWKV7Config(
        width=width,
        layers=layers,
        heads=width // 64,
        feedforward=4 * width,
        vocabulary=65_536,
        decay_rank=decay,
        rate_rank=decay,
        value_rank=value,
        gate_rank=gate,
    )
    return Published(RWKV7(config), f"BlinkDL/{hub}", (f"{file}-ctx4096.pth",))


_WORLD, _G1 = "rwkv-7-world", "rwkv7-g1"

PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        "qwen2.5-0.5b": _qwen2("Qwen2.5-0.5B-Instruct", 1, 896, 24, 14, 4864),
        "qwen2.5-1.5b": _qwen2("Qwen2.5-1.5B-Instruct", 1, 1536, 28, 12, 8960),
        "qwen2.5-3b": _qwen2("Qwen2.5-3B-Instruct", 2, 2048, 36, 16, 11_008),
        "qwen3-0.6b": _qwen3("Qwen3-0.6B", 1, 1024, 28, 16, 3072),
        "qwen3-1.7b": _qwen3("Qwen3-1.7B", 2, 2048, 28, 16, 6144),
        "qwen3-4b": _qwen3("Qwen3-4B", 3, 2560, 36, 32, 9728),
        "llama3.2-1b": _transformer(
            "meta-llama/Llama-3.2-1B-Instruct",
            1,
            width=2048,
            layers=16,
            heads=32,
            kv_heads=8,
            head_dim=64,
            feedforward=8192,
            vocabulary=128_256,
            norm_eps=1e-5,
            rope=Rope(5e5, "llama3", 32.0, 1.0, 4.0, 8192),
            context=131_072,
            end_tokens=(128_001, 128_008, 128_009),
        ),
        "smollm2-135m": _transformer(
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            1,
            width=576,
            layers=30,
            heads=9,
            kv_heads=3,
            head_dim=64,
            feedforward=1536,
            vocabulary=49_152,
            norm_eps=1e-5,
            rope=Rope(1e5),
            context=8192,
            end_tokens=(2,),
        ),
        "rwkv7-0.1b": _rwkv7(
            _WORLD, "RWKV-x070-World-0.1B-v2.8-20241210", 768, 12, (64, 32, 128)
        ),
        "rwkv7-0.4b": _rwkv7(
            _WORLD, "RWKV-x070-World-0.4B-v2.9-20250107", 1024, 24, (64, 32, 128)
        ),
        # From here on but for 2.9B, those of the paper of EGGROLL.
        "rwkv7-1.5b": _rwkv7(_G1, "rwkv7-g1-1.5b-20250429", 2048, 24, (96, 64, 256)),
        "rwkv7-2.9b": _rwkv7(_G1, "rwkv7-g1-2.9b-20250519", 2560, 32, (96, 64, 320)),
        "rwkv7-7b": _rwkv7(_G1, "rwkv7-g0-7.2b-20250722", 4096, 32, (128, 96, 480)),
        "rwkv7-14b": _rwkv7(
            _G1, "rwkv7-g0a3-13.3b-20251031", 4096, 61, (192, 128, 384)
        ),
    }
)
