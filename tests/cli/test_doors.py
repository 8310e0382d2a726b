"""No run or config makes the library call what it has no business to call."""

import json
import shutil
import sys
import types

import pytest
import yaml
from toyrun import config

from eggroll import UserError, runs, training
from eggroll.cli.main import main
from eggroll.config import plain, resolve
from eggroll.runs import origin
from tasks.control import Control
from tasks.language.corpus import load as load_corpus
from tasks.reasoning import rewards, sources


@pytest.fixture
def called(monkeypatch) -> list[str]:
    """What was called of a module that no config should reach."""
    calls = []
    module = types.ModuleType("doors")

    def run(*words, **options):
        calls.append("run")

    class Thing:
        def __init__(self, *words, **options):
            calls.append("Thing")

    vars(module).update(run=run, Thing=Thing)
    monkeypatch.setitem(sys.modules, "doors", module)
    return calls


@pytest.mark.parametrize("name", ["doors:run", "doors:Thing"])
def test_environments_networks_tasks_and_rewards_are_not_just_anything(name, called):
    with pytest.raises(UserError, match="environment: expected a class that inherits"):
        Control(environment=name)
    with pytest.raises(
        UserError, match=r"network: expected a class of flax.nnx.Module"
    ):
        Control(environment="gymnax/CartPole-v1", network=name)
    with pytest.raises(ValueError, match=r"no class of Verifier|must take .prompts"):
        rewards.find(name)
    with pytest.raises(UserError, match="expected a dataclass"):
        resolve({"task": name, "budget": {"generations": 1}})
    assert called == []


def test_a_dataclass_that_is_no_task_is_not_made(tmp_path):
    settings = resolve({"task": "toy:Line", "budget": {"generations": 1}})
    other = resolve({"task": "eggroll.runs:Outline", "budget": {"generations": 1}})
    training.instantiate.task(settings)
    with pytest.raises(UserError, match=r"inherits from eggroll.Task, got 'eggroll.ru"):
        training.prepare(other)


@pytest.mark.parametrize(
    "name", ["..", ".", "../x", "a/b", "/tmp/x", "a\\nb", "a\\0b", "../../x"]
)
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_nothing_is_made_outside_of_the_output(tmp_path, capsys, name, command):
    inside = tmp_path / "in" / "side"
    inside.mkdir(parents=True)
    path = inside / "line.yaml"
    tree = plain(config(inside / "runs")) | {"sweep": {"sigma": [0.1]}}
    path.write_text(yaml.safe_dump(tree))
    quoted = json.dumps(name.encode().decode("unicode_escape"))
    assert main([command, str(path), "--name", quoted]) == 2
    assert "name: expected a plain directory name" in capsys.readouterr().err
    assert [one.name for one in tmp_path.rglob("*")] == ["in", "side", "line.yaml"]


def test_datasets_never_bring_code_along():
    options = {"trust_remote_code": True}
    pytest.importorskip("datasets")
    with pytest.raises(UserError, match="trust_remote_code would run the code"):
        sources.load("huggingface:a/b", options)
    with pytest.raises(UserError, match="trust_remote_code would run the code"):
        load_corpus("huggingface:a/b", options=options)


@pytest.fixture
def foreign(tmp_path):
    """A run of somebody else, of a task that is not installed."""
    made = runs.create(config(tmp_path / "there"))
    rows = [{"step": i, "validation/error": 1.0, "seconds": i} for i in range(3)]
    made.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = (made.path / "config.yaml").read_text().replace("toy:Line", "theirs:Line")
    (made.path / "config.yaml").write_text(text)
    return made.path


def test_the_run_of_somebody_else_is_drawn_without_its_code(foreign, tmp_path, capsys):
    assert main(["plot", str(foreign)]) == 0
    assert (foreign / "curve.png").is_file()
    picture = str(tmp_path / "both.png")
    assert main(["compare", str(foreign), "--output", picture]) == 0
    assert "backprop" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ("eval",),
        ("sample",),
        ("render",),
        ("export", "--format", "safetensors"),
        ("train", "--resume"),
    ],
)
def test_the_code_of_somebody_else_is_run_when_the_user_says_so(foreign, capsys, words):
    assert main([*words, str(foreign)]) == 2
    assert "names code that would be run (theirs:Line)" in capsys.readouterr().err
    assert main([*words, str(foreign), "--trust"]) == 2
    assert "there is no module 'theirs'" in capsys.readouterr().err


def test_a_run_keeps_its_trust_where_it_was_made_and_only_there(tmp_path, monkeypatch):
    made = runs.create(config(tmp_path))
    moved = shutil.copytree(made.path, tmp_path / "moved")
    assert runs.load(moved).config == made.config
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    with pytest.raises(UserError, match="was not made here"):
        runs.load(made.path)
    assert runs.load(made.path, trust=True).config == made.config


def test_where_no_key_can_be_kept_a_run_is_made_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    made = runs.create(config(tmp_path))
    with pytest.raises(UserError, match="was not made here"):
        runs.load(made.path)


def test_names_are_found_wherever_they_stand_and_those_that_are_shipped_are_not():
    settings = {
        "task": {"class": "tasks.control:Control", "environment": "mine.more:Hover"},
        "deep": [{"x": ("a:b", 3)}],
        "text": "what: it says",
        "corpus": "huggingface:name",
        "host": "their_envs:Walk-v0",
    }
    assert origin.names_of(settings) == ["a:b", "mine.more:Hover", "their_envs:Walk-v0"]
