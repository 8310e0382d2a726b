"""A checkpoint is asked, and answers or says why not."""

import dataclasses
import shutil
import sys

import gguf_files
import jax.numpy as jnp
import parity_rwkv
import pytest

from models.llm import (
    checkpoint,
    gguf,
    pretrained,
    rwkv7_checkpoint,
    speak,
    tokenizer,
    world,
)
from models.llm.generation import generate
from models.llm.transformer import Transformer


def needs_the_extra():
    pytest.importorskip("tokenizers")
    pytest.importorskip("jinja2")


@pytest.fixture
def file(tmp_path):
    metadata, tensors = gguf_files.tiny()
    metadata["tokenizer.chat_template"] = "{{ messages[-1].content }}the"
    return gguf_files.write(tmp_path / "a.gguf", metadata, tensors)


def asked(model, *more, prompt="abc"):
    words = ["--model", str(model), "--prompt", prompt, "--new-tokens", "6"]
    return speak.main([*words, *more])


@pytest.mark.slow
def test_an_answer_is_what_is_generated_after_the_template(file, capsys):
    needs_the_extra()
    config, params = gguf.load(file)
    words = tokenizer.load(file, config.vocabulary)
    prompt = words.encode("abcthe")
    done = generate(
        Transformer(config),
        params,
        jnp.asarray([prompt]),
        jnp.asarray([len(prompt)]),
        new_tokens=6,
    )
    wanted = words.decode(done.tokens[0, : done.lengths[0]])
    assert asked(file) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{wanted}\n\n{len(prompt)} tokens read, ")
    assert "tokens/s" in out


@pytest.mark.slow
def test_a_directory_says_what_the_file_says(file, tmp_path, capsys):
    needs_the_extra()
    directory = tmp_path / "model"
    checkpoint.save(directory, *gguf.load(file))
    words = tokenizer.load(file)
    words.backend.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(str(words.template))
    settings = '{"eos_token_id": 31, "repetition_penalty": 1.1}'
    (directory / "generation_config.json").write_text(settings)
    said = []
    for model in (file, directory):
        assert asked(model, "--temperature", "0.5", "--seed", "3") == 0
        printed = capsys.readouterr()
        said.append(printed.out.split("\n\n")[0])
    assert said[0] == said[1]
    assert "repetition_penalty = 1.1 is not applied" in printed.err


@pytest.fixture(scope="module")
def rwkv7(tmp_path_factory):
    """A directory of an RWKV-7 of few tokens, and its vocabulary."""
    directory = tmp_path_factory.mktemp("rwkv7")
    tokens = [bytes((x,)) for x in range(256)] + [b"\n\n", b"User", b".\n\n"]
    lines = [f"{i} {token!r} {len(token)}\n" for i, token in enumerate(tokens, 1)]
    (directory / world.VOCABULARY).write_text("".join(lines))
    config = dataclasses.replace(parity_rwkv.CONFIG, vocabulary=270, layers=1)
    params = parity_rwkv.params_of(config)
    rwkv7_checkpoint.write(directory / "a.safetensors", config, params)
    return directory


ENDS = (257, 259)


@pytest.mark.parametrize(
    ("options", "text", "ends"),
    [
        ((), "User: a\nb\n\nAssistant:", ENDS),
        (("--system", "c"), "System: c\n\nUser: a\nb\n\nAssistant:", ENDS),
        (("--thinking",), "User: a\nb\n\nAssistant: <think", ()),
        (("--plain",), "a\n\nb", ()),
    ],
)
def test_rwkv7_converses_in_its_own_way(rwkv7, options, text, ends, monkeypatch):
    found = []

    def complete(speaker, prompt, *, end_tokens, **_):
        found.append((speaker.tokenizer.decode(prompt), end_tokens))
        return speak.Answer("", 1, True, 1.0, 1.0)

    monkeypatch.setattr(speak, "complete", complete)
    for path in (rwkv7, rwkv7 / "a.safetensors"):
        assert asked(path, *options, prompt="a\n\nb") == 0
    assert found == [(text, ends)] * 2


def test_an_rwkv7_answers_from_the_command_line(rwkv7, capsys):
    words = world.read(rwkv7 / world.VOCABULARY)
    model, params = pretrained.load(rwkv7)
    speaker, prompt = speak.Speaker(model, params, words), words.encode("ab")
    said = speak.complete(speaker, prompt, new_tokens=6, end_tokens=())
    assert (said.tokens, said.ended) == (6, False)
    assert asked(rwkv7, "--plain", prompt="ab") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{said.text}\n\n2 tokens read, 6 written")
    assert out.endswith("; not at its end\n")


def test_a_missing_vocabulary_or_another_s_is_named(
    rwkv7, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(world.importlib.util, "find_spec", lambda name: None)
    shutil.copy(rwkv7 / "a.safetensors", tmp_path)
    assert asked(tmp_path) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path} lacks rwkv_vocab_v20230424.txt" in said
    assert "pip install --no-deps rwkv" in said
    lines = (rwkv7 / world.VOCABULARY).read_text()
    more = "".join(f"{260 + i} 'xx{i}' {2 + len(str(i))}\n" for i in range(20))
    (tmp_path / world.VOCABULARY).write_text(lines + more)
    assert asked(tmp_path) == 2
    said = capsys.readouterr().err
    assert "vocabulary has 280 tokens, the model 270: they do not belong" in said


def test_no_weight_is_read_for_what_cannot_be_answered(rwkv7, monkeypatch, capsys):
    monkeypatch.setattr(pretrained, "load", None)
    assert asked(rwkv7, "--temperature", "-1") == 2
    assert asked(rwkv7, "--new-tokens", "0") == 2
    assert asked(rwkv7, "--plain", prompt="") == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in said] == [
        "Need temperature >= 0 and 0 < top_p <= 1",
        "Prompts of 17 tokens and completions of 0 do not fit a context of "
        "2147483647: shorten the prompts",
        "the prompt has no tokens",
    ]


def test_an_answer_without_what_was_expected_is_a_failure(file):
    needs_the_extra()
    assert asked(file, "--expect", "Paris") == 1


@pytest.mark.parametrize(
    ("more", "prompt", "said"),
    [
        (["--new-tokens", "300"], "abc", "do not fit a context of 256"),
        ([], "abc" * 100, "do not fit a context of 256"),
        (["--plain"], "", "the prompt has no tokens"),
    ],
)
def test_what_cannot_be_answered_is_said_before_anything(
    file, more, prompt, said, capsys
):
    needs_the_extra()
    assert asked(file, *more, prompt=prompt) == 2
    assert said in capsys.readouterr().err


def test_what_is_no_checkpoint_is_said(tmp_path, capsys):
    for model, said in [(tmp_path / "none", "no such file"), (tmp_path, "config.json")]:
        assert asked(model) == 2
        assert said in capsys.readouterr().err


def test_a_missing_library_is_named_with_its_extra(file, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert asked(file) == 2
    assert "need tokenizers: pip install 'eggroll-jax[llm]'" in capsys.readouterr().err
