"""Under which name this is installed: in the index, `eggroll` is another project."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

import eggroll


ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
NAME = "eggroll-jax"
FILES = sorted(
    path
    for pattern in ("eggroll/**/*.py", "tasks/**/*.py", "docs/*.md", "*.md", "Makefile")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"  # it tells what names were
)


def test_the_distribution_has_a_name_of_its_own_and_the_command_that_of_the_import():
    assert PROJECT["name"] == NAME
    assert PROJECT["scripts"].keys() == {"eggroll"}


def test_whoever_is_told_to_install_an_extra_is_told_one_that_there_is():
    texts = {path: path.read_text("utf-8") for path in FILES}
    told = {
        (path.name, name, extra)
        for path, text in texts.items()
        for name, extra in re.findall(r"\b(eggroll[\w-]*)\[([a-z-]+)\]", text)
    }
    extras = PROJECT["optional-dependencies"].keys()
    assert {one for one in told if one[1] != NAME or one[2] not in extras} == set()
    assert len(told) >= 5


def test_the_other_project_has_not_overwritten_this_one():
    try:
        other = importlib.metadata.distribution("eggroll")
    except importlib.metadata.PackageNotFoundError:
        return
    taken = [str(one) for one in other.files or () if one.parts[0] == "eggroll"]
    assert not taken, (
        "the federated-learning project `eggroll` is installed and its files are those "
        "of this one: pip uninstall eggroll, and install eggroll-jax again"
    )


def test_the_version_of_what_is_installed_is_that_of_the_source():
    try:
        version = importlib.metadata.version(NAME)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed, or before `make venv` gave it this name")
    assert version == eggroll.__version__
