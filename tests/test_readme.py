"""The code that the README shows runs as it stands there."""

import re
from pathlib import Path


README = Path(__file__).parent.parent / "README.md"
OPTIMISER, ASK_TELL = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def run(code):
    scope = {}
    exec(compile(code, str(README), "exec"), scope)
    return scope


def lines(code):
    return len([line for line in code.splitlines() if line.strip()])


def test_the_optimiser_example_learns_in_15_lines():
    assert lines(OPTIMISER) <= 15
    assert run(OPTIMISER)["value"] < 0.5  # a linear model that predicts 0 has about 2.2


def test_the_ask_and_tell_example_learns_in_10_lines():
    assert lines(ASK_TELL) <= 10
    assert run(ASK_TELL)["fitness"].mean() > -1.0  # at first -6
