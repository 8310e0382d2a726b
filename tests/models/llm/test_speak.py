"""A checkpoint is asked, and answers or says why not."""

import sys

import gguf_files
import jax.numpy as jnp
import pytest

from models.llm import checkpoint, gguf, speak, tokenizer
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
