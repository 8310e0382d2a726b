"""A tiny language model on disk as Hugging Face's, with a tokenizer of single bytes."""

import json
from pathlib import Path

import jax
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from models.llm import checkpoint
from models.llm.config import TransformerConfig
from models.llm.transformer import Transformer


TEMPLATE = (
    "{% for message in messages %}<{{ message['role'][0] }}>{{ message['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)
END = 256


def config(**sizes) -> TransformerConfig:
    return TransformerConfig(
        **{
            "width": 32,
            "layers": 2,
            "heads": 2,
            "kv_heads": 1,
            "head_dim": 16,
            "feedforward": 48,
            "vocabulary": 260,
            "tied": True,
            "attention_bias": True,
            "context": 256,
            "end_tokens": (END,),
            **sizes,
        }
    )


def write(path: Path, seed: int = 0, template: str | None = TEMPLATE, **sizes) -> Path:
    """Writes model and tokenizer; returns their directory."""
    made = config(**sizes)
    checkpoint.save(path, made, Transformer(made).init(jax.random.key(seed)))
    tokenizer().save(str(path / "tokenizer.json"))
    ends = {"eos_token": "<end>"} | ({"chat_template": template} if template else {})
    (path / "tokenizer_config.json").write_text(json.dumps(ends))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": END}))
    return path


def tokenizer() -> Tokenizer:
    """Each byte is a token, and behind them `<end>`, `<u>`, `<a>`, `<s>`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    made.decoder = decoders.ByteLevel()
    made.add_tokens(
        [AddedToken(x, special=True) for x in ("<end>", "<u>", "<a>", "<s>")]
    )
    return made
