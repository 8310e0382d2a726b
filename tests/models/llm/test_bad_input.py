"""A bad checkpoint or prompt is told in one short line, before anything runs."""

import json
import pickle
import re

import gguf_files
import numpy as np
import parity
import parity_rwkv
import pytest

from models.llm import checkpoint, rwkv7_checkpoint, safetensors, speak, tokenizer


FIELDS = parity.SMALL | {
    "model_type": "llama",
    "hidden_size": 32,
    "vocab_size": len(gguf_files.TOKENS),
    "tie_word_embeddings": True,
}
WEIGHTS = safetensors.SINGLE


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The whole files of which cases damage copies: bytes by their names."""
    root = tmp_path_factory.mktemp("whole")
    parity.put(root, FIELDS, parity.weights(FIELDS))
    gguf_files.write(root / "model.gguf", *gguf_files.tiny())
    words = tokenizer.load(root / "model.gguf").backend
    words.save(str(root / "tokenizer.json"))
    words.add_tokens(["more"])
    words.save(str(root / "larger.json"))
    config, params = checkpoint.load(root)
    checkpoint.save(root / "shards", config, params, shard_bytes=20_000)
    rwkv7_checkpoint.write(
        root / "rwkv7.safetensors",
        parity_rwkv.CONFIG,
        parity_rwkv.params_of(parity_rwkv.CONFIG),
    )
    found = {x.name: x.read_bytes() for x in root.iterdir() if x.is_file()}
    shards = {x.name: x.read_bytes() for x in (root / "shards").iterdir()}
    return found | {x: content for x, content in shards.items() if x not in found}


WHOLE = ("config.json", WEIGHTS, "tokenizer.json")
SHARDS = [f"model-{i:05}-of-00004.safetensors" for i in (1, 2, 3, 4)]


def header(content, **changes):
    """Safetensors whose header says something else of its first tensor."""
    length = int.from_bytes(content[:8], "little")
    said = json.loads(content[8 : 8 + length])
    said[next(x for x in said if x != "__metadata__")] |= changes
    text = json.dumps(said).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def other(content, **changes):
    return json.dumps(json.loads(content) | changes).encode()


CASES = {
    "a missing shard": (
        lambda of: (
            {x: of[x] for x in ("config.json", "tokenizer.json", safetensors.INDEX)}
            | {x: of[x] for x in SHARDS[:2]}
        ),
        f"lacks 2 of 4 shards .* {SHARDS[2]}, {SHARDS[3]}",
    ),
    "truncated safetensors": (
        lambda of: {x: of[x] for x in WHOLE} | {WEIGHTS: of[WEIGHTS][:-100]},
        "model.safetensors is cut short or damaged: its tensors take",
    ),
    "truncated GGUF": (
        lambda of: {"model.gguf": of["model.gguf"][:-100]},
        "model.gguf: the file is truncated: blk.1.ffn_up.weight ends at",
    ),
    "a truncated RWKV-7": (
        lambda of: {"a.safetensors": of["rwkv7.safetensors"][:-100]},
        "a.safetensors is cut short or damaged",
    ),
    "an unknown type of tensor": (
        lambda of: (
            {x: of[x] for x in WHOLE} | {WEIGHTS: header(of[WEIGHTS], dtype="F8_E4M3")}
        ),
        "tensors of type F8_E4M3 are not supported",
    ),
    "an unknown type of tensor in GGUF": (
        lambda of: {
            "model.gguf": gguf_files.content(
                gguf_files.tiny()[0], {"token_embd.weight": (10, (1, 256), bytes(84))}
            )
        },
        "token_embd.weight is of type Q2_K; F32, F16",
    ),
    "another architecture": (
        lambda of: (
            {x: of[x] for x in WHOLE}
            | {"config.json": other(of["config.json"], model_type="gemma3")}
        ),
        "Models of type 'gemma3' are not supported: llama, qwen2, qwen3 are",
    ),
    "another architecture in GGUF": (
        lambda of: {"model.gguf": of["model.gguf"].replace(b"\0llama", b"\0mamba", 1)},
        "the architecture is 'mamba'; llama, qwen2, qwen3 are supported",
    ),
    "another architecture's tensors": (
        lambda of: {"a.safetensors": of[WEIGHTS]},
        "has weights and no config.json",
    ),
    "a tokenizer of another vocabulary": (
        lambda of: {x: of[x] for x in WHOLE} | {"tokenizer.json": of["larger.json"]},
        "the tokenizer has 33 tokens, the model 32: they do not belong together",
    ),
    "a header that lies": (
        lambda of: (
            {x: of[x] for x in WHOLE}
            | {WEIGHTS: header(of[WEIGHTS], shape=[2**40, 2**20])}
        ),
        "has a header that lies",
    ),
    "a pickle called safetensors": (
        lambda of: (
            {x: of[x] for x in WHOLE} | {WEIGHTS: pickle.dumps({"a": np.ones(3)})}
        ),
        "is a pickle, whatever its name",
    ),
    "a pickle called pth": (
        lambda of: {"a.pth": pickle.dumps({"a": np.ones(3)})},
        "got a bare pickle, .* which could run code",
    ),
    "a pickle alone": (
        lambda of: {
            "config.json": of["config.json"],
            "tokenizer.json": of["tokenizer.json"],
            "pytorch_model.bin": pickle.dumps({"a": np.ones(3)}),
        },
        "only pickles, .* pytorch_model.bin",
    ),
    "sizes that are none": (
        lambda of: (
            {x: of[x] for x in WHOLE}
            | {"config.json": other(of["config.json"], num_attention_heads=0)}
        ),
        "positive integers: {'num_attention_heads': 0}",
    ),
    "sizes in words": (
        lambda of: (
            {x: of[x] for x in WHOLE}
            | {"config.json": other(of["config.json"], hidden_size="32")}
        ),
        "positive integers: {'hidden_size': '32'}",
    ),
}


def refused(model, capsys, *more):
    """The one line that is said of it."""
    assert speak.main(["--model", str(model), "--prompt", "abc", *more]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert len(said.replace(str(model), "")) < 500
    return said


@pytest.fixture(autouse=True)
def _nothing_runs(monkeypatch):
    pytest.importorskip("tokenizers")
    monkeypatch.setattr(speak, "complete", None)


@pytest.mark.parametrize(("make", "said"), CASES.values(), ids=CASES)
def test_a_bad_checkpoint_is_refused_in_a_line(kept, make, said, tmp_path, capsys):
    for name, content in make(kept).items():
        (tmp_path / name).write_bytes(content)
    model = tmp_path / "model.gguf"
    line = refused(model if model.exists() else tmp_path, capsys)
    assert re.search(said, line), line


def test_a_prompt_longer_than_the_context_is_refused_in_a_line(kept, tmp_path, capsys):
    for name in WHOLE:
        (tmp_path / name).write_bytes(kept[name])
    line = refused(tmp_path, capsys, "--new-tokens", "254")
    assert "Prompts of 3 tokens and completions of 254 do not fit" in line
    assert "a context of 256: shorten the prompts, or ask for fewer" in line
