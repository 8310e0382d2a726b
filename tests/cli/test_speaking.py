"""`eggroll sample --model` hands over to what speaks with checkpoints."""

import sys

import gguf_files
import pytest

from eggroll.cli import main as cli


@pytest.fixture
def handed(monkeypatch):
    """The arguments that were handed over."""
    from models.llm import speak

    found = []
    monkeypatch.setattr(speak, "main", lambda given: found.append(given) or 7)
    return found


@pytest.mark.parametrize(
    "words", [["--model", "a", "--prompt", "b"], ["--prompt=b", "--model=a", "--new"]]
)
def test_all_arguments_and_the_status_are_those_of_the_speaker(handed, words):
    assert cli.main(["sample", *words]) == 7
    assert handed == [words]


def test_without_a_model_a_run_is_sampled(handed, capsys):
    assert cli.main(["sample", "nowhere"]) == 2
    assert "nowhere is no run" in capsys.readouterr().err
    assert not handed


def test_a_checkpoint_answers(tmp_path, capsys):
    pytest.importorskip("tokenizers")
    path = gguf_files.write(tmp_path / "a.gguf", *gguf_files.tiny())
    words = ["sample", "--model", str(path), "--prompt", "abc", "--new-tokens", "2"]
    assert cli.main(words) == 0
    assert "3 tokens read, 2 written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("prompt", "status", "said"),
    [
        ([], 2, "required: --prompt"),
        (["--prompt", "a"], 2, "nowhere: there is no such"),
    ],
)
def test_mistakes_are_told_and_exit_with_2(prompt, status, said, capsys):
    try:
        found = cli.main(["sample", "--model", "nowhere", *prompt])
    except SystemExit as end:
        found = end.code
    assert found == status
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_help_tells_of_it(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["sample", "--help"])
    out = capsys.readouterr().out
    assert "usage: eggroll sample (RUN | --model FILE_OR_DIR)" in out
    assert "eggroll sample --model FILE_OR_DIR --help" in out


def test_where_there_are_no_models_one_line_says_so(monkeypatch, capsys):
    for name in [x for x in sys.modules if x.partition(".")[0] == "models"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "models", None)
    assert cli.main(["sample", "--model", "a", "--prompt", "b"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("eggroll: there is no module 'models")
    assert "run from the clone that holds it" in said
    assert said.count("\n") == 1
