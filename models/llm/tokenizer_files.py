"""A tokenizer written as a Hugging Face checkpoint has it, such as a GGUF file's."""

import json
from pathlib import Path
from typing import Any

from models.llm.extras import library
from models.llm.tokenizer import Tokenizer


def save(directory: Path, tokenizer: Tokenizer) -> list[str]:
    """Writes a tokenizer as a Hugging Face checkpoint has it; returns the files' names.

    Files that are there already are left alone.
    """
    said = dict(tokenizer.names)
    if tokenizer.template is not None:
        said["chat_template"] = tokenizer.template
    contents = {
        "tokenizer.json": _with_start(tokenizer).to_str(pretty=True),
        "tokenizer_config.json": json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast", **said}, indent=2
        ),
        "generation_config.json": json.dumps(
            {"eos_token_id": list(tokenizer.end_tokens)}, indent=2
        ),
    }
    for name, content in contents.items():
        if not (directory / name).exists():
            (directory / name).write_text(content + "\n", encoding="utf-8")
    return list(contents)


def _with_start(tokenizer: Tokenizer) -> Any:
    """The backend, which then puts the start token before texts by itself."""
    if not tokenizer.start:
        return tokenizer.backend
    tokenizers = library("tokenizers")
    made = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    names = [(made.id_to_token(token), token) for token in tokenizer.start]
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single=[*(name for name, _ in names), "$A"], special_tokens=names
    )
    return made
