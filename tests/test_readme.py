"""What the README and the documents say: code runs, commands parse, links lead."""

import re
import shlex
from pathlib import Path

import pytest

from eggroll.cli.main import main
from eggroll.config import load


ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
TEXTS = {str(one.relative_to(ROOT)): one.read_text("utf-8") for one in DOCUMENTS}
PYTHON = r"```python\n(.*?)```"
OPTIMISER, TWO_HALVES = re.findall(PYTHON, TEXTS["README.md"], re.DOTALL)

LINKS = sorted(
    {
        (name, target)
        for name, text in TEXTS.items()
        for target in re.findall(r"\]\(([^)#]+)\)", text)
        if "://" not in target
    }
)
COMMANDS = sorted(
    {
        words
        for text in TEXTS.values()
        for line in re.findall(
            r"^\s*(?:\.venv/bin/)?eggroll (\w.*)$", text, re.MULTILINE
        )
        if (words := tuple(shlex.split(line, comments=True)))
    }
)


def run(code):
    scope = {}
    exec(compile(code, str(README), "exec"), scope)
    return scope


def lines(code):
    return len([line for line in code.splitlines() if line.strip()])


def test_the_optimiser_example_learns_in_15_lines():
    assert lines(OPTIMISER) <= 15
    assert run(OPTIMISER)["value"] < 0.5  # a linear model that predicts 0 has about 2.2


def test_the_example_in_two_halves_learns_in_10_lines():
    assert lines(TWO_HALVES) <= 10
    assert run(TWO_HALVES)["fitness"].mean() > -1.0  # at first -6


@pytest.mark.parametrize(("document", "target"), LINKS)
def test_links_lead_somewhere(document, target):
    assert ((ROOT / document).parent / target).exists()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_and_the_configs_that_they_name_exist(words, capsys):
    name, *rest = words
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"eggroll {name}" in capsys.readouterr().out
    if rest[0].endswith(".yaml"):
        settings = rest[1:] if name in ("train", "info") else []
        names = [one.removeprefix("--") for one in settings[::2]]
        load(ROOT / rest[0], list(zip(names, settings[1::2], strict=True)))


def test_the_readme_shows_its_commands():
    """So that the test before this one has something to read."""
    assert {words[0] for words in COMMANDS} >= {"train", "eval", "compare", "sweep"}
    assert len(LINKS) > 5
