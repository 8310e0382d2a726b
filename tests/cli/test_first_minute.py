"""What a newcomer meets: help, versions, spaces, and no second compilation."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import yaml
from toyrun import config

import eggroll
from eggroll.cli import compiled
from eggroll.cli.main import OWN_OPTIONS, main
from eggroll.config import load, plain
from tasks.control import Box, Discrete, MultiDiscrete, spaces


ROOT = Path(__file__).parent.parent.parent
CARTPOLE = str(ROOT / "configs/rl/cartpole.yaml")
DIRECTORY = "jax_compilation_cache_dir"
SHORTEST = "jax_persistent_cache_min_compile_time_secs"
needs_gymnax = pytest.mark.skipif(
    importlib.util.find_spec("gymnax") is None, reason="gymnax is not installed"
)


@pytest.fixture
def uncached(monkeypatch, tmp_path):
    """A process whose JAX keeps nothing yet; nothing is compiled meanwhile."""
    before = jax.config.jax_compilation_cache_dir
    shortest = jax.config.jax_persistent_cache_min_compile_time_secs
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(compiled.VARIABLE, raising=False)
    monkeypatch.delenv(SHORTEST.upper(), raising=False)
    monkeypatch.setenv(compiled.LEVEL, "0")  # and tells all that it told before
    jax.config.update(DIRECTORY, None)
    yield tmp_path
    jax.config.update(DIRECTORY, before)
    jax.config.update(SHORTEST, shortest)


# --- what was compiled


def test_compiled_programs_are_kept_in_the_users_cache(uncached):
    path = compiled.keep()
    assert path is not None
    assert path.parent == uncached / "eggroll" / "compiled"
    assert jax.config.jax_compilation_cache_dir == str(path)
    assert jax.config.jax_persistent_cache_min_compile_time_secs == compiled.SHORTEST
    assert path.stat().st_mode & 0o077 == 0


def test_a_variable_says_where_instead(uncached, monkeypatch):
    monkeypatch.setenv(compiled.VARIABLE, str(uncached / "else"))
    path = compiled.keep()
    assert path is not None
    assert path.parent == uncached / "else" / "compiled"


def test_nothing_is_kept_where_jax_is_to_keep_nothing(uncached):
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        assert compiled.keep() is None
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert list(uncached.iterdir()) == []


def test_what_jax_was_told_comes_first(uncached):
    jax.config.update(DIRECTORY, str(uncached / "jax"))
    assert compiled.keep() is None
    assert jax.config.jax_compilation_cache_dir == str(uncached / "jax")


def test_a_cache_that_cannot_be_is_done_without(uncached, monkeypatch):
    (uncached / "file").touch()
    monkeypatch.setenv(compiled.VARIABLE, str(uncached / "file"))
    assert compiled.keep() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_what_was_not_used_for_longest_goes_first(uncached):
    path = compiled.keep()
    assert path is not None
    for age, name in enumerate("abcd"):
        (path / name).write_bytes(bytes(100))
        os.utime(path / name, (1e9 - age, 1e9 - age))
    jax.config.update(DIRECTORY, None)
    compiled.keep(largest=250)
    assert sorted(one.name for one in path.iterdir()) == ["a", "b"]


def test_who_imports_the_library_decides_for_themselves():
    program = f"import eggroll, jax; print(jax.config.{DIRECTORY})"
    environment = {k: v for k, v in os.environ.items() if k != DIRECTORY.upper()}
    words = [sys.executable, "-c", program]
    found = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout == "None\n"


# --- what is said


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_alone_it_prints_its_help(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "start or resume a run" in said
    assert compiled.VARIABLE in said


def test_it_tells_its_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"eggroll {eggroll.__version__}\n"


def test_shells_complete_commands_options_and_settings(capsys):
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    said = capsys.readouterr().out
    for word in (*OWN_OPTIONS, "--population", "--learning-rate", "--resume"):
        assert word in said
    checked = subprocess.run(["bash", "-n"], input=said, text=True)
    assert checked.returncode == 0


def test_without_its_package_completion_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "zsh"]) == 2
    assert "pip install 'eggroll-jax[completion]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (Discrete(4), "one of 4"),
        (MultiDiscrete((2, 3)), "2 choices, of 2, 3"),
        (Box.of(-1, 1, size=6), "6 numbers, each from -1 to 1"),
        (Box((-2.0,), (2.0,)), "1 number, from -2 to 2"),
        (Box((-2.0, 0.0), (2.0, 1.0)), "2 numbers, from -2 to 2"),
    ],
)
def test_actions_are_told_in_words(space, words):
    assert spaces.in_words(space) == words


@needs_gymnax
def test_info_tells_what_a_policy_meets_and_how_much_of_it(capsys):
    assert main(["info", CARTPOLE, "--samples", "1e6"]) == 0
    said = capsys.readouterr().out
    assert "environment: gymnax/CartPole-v1\n" in said
    assert "observation: 4 numbers\n" in said
    assert "action: one of 2\n" in said
    assert "step limit: 500\n" in said
    assert (
        "frames: at most 128,000 a step (256 × 500), 25,600,000 in 200 steps; "
        "1,000,000 suffice for 7\n"
    ) in said


@pytest.mark.parametrize(("value", "words"), [("9", "confirms it"), ("0", "does not")])
def test_a_target_that_awaits_its_confirmation_says_so(
    tmp_path, capsys, monkeypatch, value, words
):
    import toy

    figures = iter([5.0, 1.0, 10 - float(value), *[5.0] * 9])
    told = lambda *_: {"error": next(figures)}
    monkeypatch.setattr(toy.Line, "validate", told)
    path = tmp_path / "line.yaml"
    path.write_text(yaml.safe_dump(plain(config(tmp_path / "runs"))))
    main(["train", str(path), "--target", "2", "--generations", "5"])
    said = capsys.readouterr().out
    assert "the target of 2 is reached; a second validation ...\n" in said
    assert f"... {words}: {10 - float(value):g}\n" in said


# --- what is left behind


def test_what_commands_write_is_ignored_by_git(tmp_path):
    path = tmp_path / "line.yaml"
    settings = plain(config(tmp_path / "runs", "generations=1"))
    path.write_text(yaml.safe_dump(settings))
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert main(["train", str(path)]) == 0
    words = ["git", "status", "--porcelain", "--untracked-files=all"]
    found = subprocess.run(words, cwd=tmp_path, capture_output=True, check=True)
    assert found.stdout.decode() == "?? line.yaml\n"


# --- bare names


@needs_gymnax
def test_a_bare_name_finds_its_library():
    from tasks.control import Control

    assert Control(environment="CartPole-v1").env.name == "gymnax/CartPole-v1"
    assert load(CARTPOLE, [("environment", "CartPole-v1")])


@needs_gymnax
def test_a_bare_name_of_two_libraries_is_refused_naming_both(monkeypatch):
    from tasks.control import adapters
    from tasks.control.adapters import craftax

    monkeypatch.setattr(craftax, "NAMES", ("CartPole-v1",))
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: name)
    for name in ("brax", "jaxmarl", "jumanji", "mujoco_playground", "navix", "pgx"):
        monkeypatch.delitem(adapters.ADAPTERS, name)
    both = "'craftax/CartPole-v1' or 'gymnax/CartPole-v1'"
    with pytest.raises(ValueError, match=both):
        adapters.make("CartPole-v1")
