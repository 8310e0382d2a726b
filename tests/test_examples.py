"""What the documents show runs as it stands there, and shows every public name."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import eggroll


DOCUMENT = Path(__file__).parent.parent / "docs" / "api.md"
SECTIONS = re.split(r"^### ", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(eggroll.__path__, "eggroll.")
    if not module.name.endswith("__main__")
)


def check(test: doctest.DocTest) -> None:
    said: list[str] = []
    found = doctest.DocTestRunner().run(test, out=said.append)
    assert not found.failed, "".join(said)


def test_the_examples_of_the_public_names_run():
    text = DOCUMENT.read_text(encoding="utf-8")
    # what closes a block is no output of its last line
    lines = re.sub(r"^```.*$", "", text, flags=re.MULTILINE)
    scope = {"__name__": "api"}
    check(doctest.DocTestParser().get_doctest(lines, scope, "api.md", str(DOCUMENT), 0))


@pytest.mark.parametrize("name", eggroll.__all__)
def test_each_public_name_has_an_example_that_uses_it(name):
    """Below a heading that names it, on a line that runs."""
    (section,) = (one for one in SECTIONS[1:] if f"`{name}`" in one.partition("\n")[0])
    code = "\n".join(re.findall(r"^(?:>>>|\.\.\.) (.*)$", section, re.MULTILINE))
    assert re.search(rf"\beggroll\.{name}\b", code) or f'"{name}"' in code


def test_headings_name_nothing_that_is_not_public():
    titles = [section.partition("\n")[0] for section in SECTIONS[1:]]
    named = [name for title in titles for name in re.findall(r"`(\w+)`", title)]
    assert sorted(named) == sorted(eggroll.__all__)


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_docstrings_run(module):
    for test in doctest.DocTestFinder().find(importlib.import_module(module)):
        check(test)
