"""Settings that nobody would write end in one short line that says what is wrong.

Seeded, so that a failure names the case that repeats it.
"""

import random
from pathlib import Path

import pytest
import yaml

from eggroll import UserError
from eggroll.config import load, plain
from eggroll.training import instantiate


SMALL = """\
task: {class: toy:Line, inputs: 4}
strategy:
  population: 16
  sigma: {start: 0.1, end: 0.01, steps: 100, kind: linear}
  rank: 1
  shaping: {name: groups, size: 4}
  rules: {b: frozen}
optimizer:
  name: adam
  learning_rate: 1e-2
budget: {generations: 5}
seed: 3
sinks: []
algorithms:
  backprop: {learning_rate: 0.5}
sweep:
  sigma: [0.1, 0.2]
"""
CONFIGS = Path(__file__).parent.parent.parent / "configs"
# What YAML, numbers and paths come to grief on.
ODD = """
!!python/object:os.system x|!!timestamp 9999999-99-99|2026-13-45|12:30:45|!!int abc
!!binary '###'|!!float nan|!!set {a, b}|!!omap [a: 1]|!!null x|!foo bar|!|!!|=|~
? [1,2]|{[1]: 2}|{{a: b}: c}|{null: 1}|*a|&a [*a]|&a {b: *a}|<<: *b|{<<: 3}
{<<: [3]}|[]|{}|''|[[]]|[.5]|[true]|[8, 8]|[1000000000, 1000000000]|- - -|%YAML 3.0
0|-1|0.5|1e18|1e400|-.inf|.nan|0x10|0o777|1_000|1000000000000|4611686018427387904
tasks.control:make|tasks.control:Control|tasks.control:|os:path|jax.numpy:int8
::|:x|a b:c|..:x|tasks..control:X|tasks.control:Control.__init__|nothing:X|brax/x
{name: groups, size: 3}|{name: groups, size: bad}|{name: zscore, x: 1}|{name: __class__}
{name: ranks, failed: 3}|{w: frozen}|{w: {name: low_rank, rank: 0}}|{w: {name: frozen}}
{name: adam, b1: [1]}|{name: adam, b1: 7, eps: no}|{name: chain}|lbfgs|partial
one_fifth_success|{name: spread_target, x: 3}|{start: 1, end: 2}|{start: .nan}|{end: 1}
"""
ENDLESS = ("9" * 5000, "[" * 900, "{" * 400, "a: " * 500, "x" * 9_000, "\0", "\t- a")
VALUES = [
    *(one for line in ODD.split("\n") for one in line.split("|") if one),
    *ENDLESS,
]


def mangled(text: str, chance: random.Random) -> str:
    """A file of settings of which some lines are others, gone, or more."""
    lines = text.splitlines()
    for _ in range(chance.randint(1, 3)):
        at, value = chance.randrange(len(lines)), chance.choice(VALUES)
        action = chance.random()
        if action < 0.5:
            lines[at] = f"{lines[at].partition(':')[0]}: {value}"
        elif action < 0.7:
            lines[at] = value
        elif action < 0.85 and len(lines) > 1:
            del lines[at]
        else:
            lines.insert(at, value)
    return "\n".join(lines)


def attempt(path: Path, text: str, names: list[str], case: int) -> None:
    """Reads settings that are wrong in a way of its own, and makes what they name."""
    chance = random.Random(case)
    overrides = []
    if chance.random() < 0.5:
        overrides = [(chance.choice(names), chance.choice(VALUES))]
    else:
        text = mangled(text, chance)
    path.write_text(text, encoding="utf-8")
    try:
        made = load(path, overrides, name="fuzz")
        instantiate.task(made)
        instantiate.adaptation(made.strategy)
        instantiate.optimizer(made)
        instantiate.strategy(made, rank=made.strategy.rank)
    except UserError as error:
        message = str(error)
        assert len(message) <= 500 + len(str(path)), f"case {case}: {message[:200]}"
        assert len(message) > 10, f"case {case}"
    except Exception as error:
        error.add_note(f"case {case}: {overrides!r:.200} {text:.2000}")
        raise


def names_in(tree: dict, where: str = "") -> list[str]:
    names = []
    for name, value in tree.items():
        names.append(f"{where}{name}")
        if isinstance(value, dict):
            names += names_in(value, f"{where}{name}.")
    return names


def test_two_hundred_wrong_settings_are_refused_or_read(tmp_path):
    for case in range(200):
        attempt(tmp_path / "c.yaml", SMALL, names_in(yaml.safe_load(SMALL)), case)


@pytest.mark.slow
@pytest.mark.parametrize("shipped", ["rl/cartpole", "supervised/spirals"])
def test_a_thousand_wrong_settings_of_a_shipped_config_are_refused_or_read(
    tmp_path, shipped
):
    path = CONFIGS / f"{shipped}.yaml"
    names = names_in(plain(load(path)))
    for case in range(1000, 2000):
        attempt(tmp_path / "c.yaml", path.read_text(), names, case)


def test_what_yaml_makes_endless_is_refused_at_once(tmp_path):
    laughs = ["a0: &a0 [x, x]"]
    laughs += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    for text, message in (
        ("a: &a [*a]", "nested more than 50 deep, or within itself"),
        ("\n".join(laughs), "more than 100,000 values"),
        ("[" * 2000, "nested more than 50 deep"),
        ("a: 1\n? [b]\n: 2", r"line 2, column 3: a name cannot be \['b'\]"),
        ("a: !!int x", "line 1, column 4: it cannot be read as 'int'"),
        ("a: 2026-13-45", "line 1, column 4: it cannot be read as 'timestamp'"),
    ):
        path = tmp_path / "c.yaml"
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            load(path)
