"""Tiny language models, and what `transformers` makes of them.

    PYTHONPATH=. python tests/support/parity.py    # with torch and transformers

writes the golden file of `tests/models/llm`. Weights are drawn by name, so that the
file need not hold them.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np

from models.llm import safetensors
from models.llm.config import from_huggingface
from models.llm.names import plan


GOLDEN = Path(__file__).parent.parent / "models" / "llm" / "transformer.npz"
LENGTH, EVERY = 96, 8  # tokens read, of which every eighth's logits are kept
PROMPTS, NEW_TOKENS = (5, 17, 30), 64
VOCABULARY = 97

SMALL = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

# Contents of config.json. Between them: all families; one, two and four heads of keys
# and values; heads of 64 and others that are not width/heads; biases; tied and not;
# RoPE of all types, past original / high_freq_factor, in files of versions 4 and 5.
CASES = {
    "qwen2": SMALL
    | {
        "model_type": "qwen2",
        "hidden_size": 48,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "use_sliding_window": False,
        "sliding_window": 16,
        "max_window_layers": 1,
    },
    "qwen2-heads-of-64": SMALL
    | {
        "model_type": "qwen2",
        "hidden_size": 32,
        "head_dim": 64,
        "num_key_value_heads": 1,
        "tie_word_embeddings": False,
        "rope_theta": 1e4,
    },
    "qwen3": SMALL
    | {
        "model_type": "qwen3",
        "hidden_size": 32,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    "qwen3-biases": SMALL
    | {
        "model_type": "qwen3",
        "hidden_size": 32,
        "head_dim": 64,
        "num_key_value_heads": 2,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "rope_theta": 1e4,
        "rope_scaling": {"type": "linear", "factor": 2.0},
    },
    "llama": SMALL
    | {
        "model_type": "llama",
        "hidden_size": 48,
        "tie_word_embeddings": False,
        "rope_theta": 500.0,
        "rope_scaling": {k: x for k, x in LLAMA3.items() if k != "rope_theta"},
    },
    "llama-biases": SMALL
    | {
        "model_type": "llama",
        "hidden_size": 32,
        "head_dim": 64,
        "num_key_value_heads": 1,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
        "rope_parameters": LLAMA3,
    },
    "llama-linear": SMALL
    | {
        "model_type": "llama",
        "hidden_size": 32,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "linear",
            "rope_theta": 1e4,
            "factor": 4.0,
        },
    },
}


def tokens() -> np.ndarray:
    """A row of tokens, whose beginnings are the prompts."""
    return np.random.default_rng(0).integers(0, VOCABULARY, (1, LENGTH))


def weights(fields: dict) -> dict[str, np.ndarray]:
    """The tensors of a model's file, float32."""
    shapes = {
        name: leaf.shape_in_file
        for leaf in plan(from_huggingface(fields))
        for name in leaf.names
    }
    return {name: _drawn(name, shape) for name, shape in shapes.items()}


def _drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if "norm" in name:
        x = 1 + 0.3 * x
    elif name.endswith("bias"):
        x = 0.3 * x
    else:
        x = 0.1 * x if "embed" in name else 1.5 * x / math.sqrt(shape[-1])
    return x.astype(np.float32)


def put(directory: Path, fields: dict, tensors: dict[str, np.ndarray]) -> Path:
    """Writes a checkpoint as people have it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(fields))
    described = {
        name: safetensors.Tensor(x.dtype, x.shape, lambda x=x: x)
        for name, x in tensors.items()
    }
    safetensors.write(directory / safetensors.SINGLE, described, {"format": "pt"})
    return directory


def theirs(directory: Path):
    """The model that `transformers` reads there."""
    import torch
    from transformers import AutoModelForCausalLM

    model, said = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    assert not any(said.values()), said
    return model.eval()


def their_logits(model, tokens: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


def their_tokens(model, prompt: np.ndarray, new_tokens: int) -> np.ndarray:
    """Their greedy completion of one prompt, which nothing ends."""
    import torch

    prompt = torch.tensor(prompt)[None]
    model.generation_config.eos_token_id = None
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=new_tokens,
        pad_token_id=0,
    )
    return out[0, prompt.shape[1] :].numpy()


def golden() -> dict[str, np.ndarray]:
    import tempfile

    found = {}
    for name, fields in CASES.items():
        with tempfile.TemporaryDirectory() as there:
            model = theirs(put(Path(there), fields, weights(fields)))
        row = tokens()
        found[f"{name}/logits"] = their_logits(model, row)[:, ::EVERY]
        found[f"{name}/tokens"] = np.stack(
            [their_tokens(model, row[0, :n], NEW_TOKENS) for n in PROMPTS]
        ).astype(np.int16)
    return found


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, **golden())
