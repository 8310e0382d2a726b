"""Ranges that are declared with the settings hold wherever settings come from."""

import dataclasses
import typing
from pathlib import Path
from typing import Annotated, Any

import pytest

from eggroll import UserError
from eggroll.config import Bounds, Schedule, check_bounds, kinds, load
from eggroll.config.bounds import bare, bounds_of
from eggroll.config.schema import StrategyConfig


CONFIGS = Path(__file__).parent.parent.parent / "configs"
CARTPOLE, LANGUAGE = CONFIGS / "rl/cartpole.yaml", CONFIGS / "language/demo.yaml"
FAR = "{start: 0.1, end: %s, steps: 5, kind: linear}"


@pytest.mark.parametrize(
    ("path", "name", "value", "message"),
    [
        (CARTPOLE, "learning_rate", ".nan", "learning_rate: expected a finite number"),
        (CARTPOLE, "learning_rate", "-1", "learning_rate: expected at least 0, got -1"),
        (CARTPOLE, "learning_rate", FAR % "-.inf", "rate.end: expected a finite"),
        (CARTPOLE, "optimizer.b1", ".nan", "optimizer.b1: expected a finite number"),
        (CARTPOLE, "shaping", "{name: groups, size: .inf}", "size: expected a finite"),
        (CARTPOLE, "generations", "0", "budget.generations: expected at least 1"),
        (CARTPOLE, "generations", "1e18", "budget.generations: expected at most 2,147"),
        (CARTPOLE, "seconds", "-3", "budget.seconds: expected above 0, got -3"),
        (CARTPOLE, "target", ".inf", "budget.target: expected a finite number"),
        (CARTPOLE, "sigma", "1e30", "strategy.sigma: expected at most 1e"),
        (CARTPOLE, "sigma", FAR % "0", "strategy.sigma: expected above 0, got 0"),
        (CARTPOLE, "seed", "9" * 30, "seed: expected a number within 64 bits"),
        (CARTPOLE, "anchor", "2", "optimizer.anchor: expected at most 1, got 2"),
        (CARTPOLE, "max_steps", "1e18", "task.max_steps: expected at most 2,147"),
        (CARTPOLE, "hidden", "[8, 0]", "task.hidden: expected at least 1, got 0"),
        (CARTPOLE, "ppo.workers", "0", "task.ppo.workers: expected at least 1, got 0"),
        (CARTPOLE, "discount", "5", "task.ppo.discount: expected at most 1, got 5"),
        (CARTPOLE, "environment_options", "{g: [.nan]}", r"g\[0\]: expected a finite"),
        (LANGUAGE, "lanes", "0", "task.lanes: expected at least 1, got 0"),
        (
            LANGUAGE,
            "stepping.alpha",
            "-1",
            "stepping.alpha: expected at least 0, got -1",
        ),
    ],
)
def test_nonsense_is_refused_by_the_name_of_the_setting(path, name, value, message):
    with pytest.raises(UserError, match=message):
        load(path, [(name, value)])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            "ppo: {task.ppo.workrs: 3}",
            r"no setting 'task.ppo.workrs'.*'task.ppo.workers'",
        ),
        ("ppo: {task.ppo: {discount: 5}}", "task.ppo.discount: expected at most 1"),
        (
            "backprop: {learning_rate: fast}",
            "backprop.optimizer.learning_rate: expected",
        ),
        ("pppo: {}", "no algorithm 'pppo': did you mean 'ppo'"),
    ],
)
def test_mistakes_in_the_section_of_an_algorithm_not_chosen_are_refused(
    tmp_path, section, message
):
    text = CARTPOLE.read_text()
    path = tmp_path / "cartpole.yaml"
    path.write_text(text.split("algorithms:")[0] + f"algorithms:\n  {section}\n")
    with pytest.raises(UserError, match=message):
        load(path)


def test_what_is_made_in_python_is_checked_too():
    with pytest.raises(UserError, match=r"strategy.sigma: expected above 0, got 0.0"):
        StrategyConfig(sigma=Schedule(start=0.0))
    with pytest.raises(UserError, match="population: expected at least 1"):
        StrategyConfig(population=0)


@pytest.mark.parametrize(
    ("bounds", "words", "within", "outside"),
    [
        (Bounds(least=1), "at least 1", (1, 1e300), (0, -1)),
        (Bounds(above=0, most=1), "above 0, at most 1", (1e-300, 1), (0, 1.1)),
        (Bounds(), "", (0, -1e9), ()),
    ],
)
def test_bounds_say_and_hold_what_they_declare(bounds, words, within, outside):
    assert str(bounds) == words
    assert not any(map(bounds.broken_by, within))
    assert all(
        map(bounds.broken_by, (*outside, *(() if not words else (float("nan"),))))
    )


def test_a_range_is_that_of_a_number_within_a_list_a_union_or_a_schedule():
    share = Bounds(least=0, most=1)

    @dataclasses.dataclass
    class Settings:
        many: Annotated[tuple[float, ...], share] = (0.5,)
        one: Annotated[float, share] | None = None
        later: Annotated[Schedule, share] = Schedule(start=0.5)  # noqa: RUF009

    check_bounds(Settings())
    late = Schedule(start=1, end=2, steps=3, kind="linear")
    wrongs: dict[str, Any] = {"many": (0.5, 2), "one": 2, "later": late}
    for name, value in wrongs.items():
        with pytest.raises(UserError, match=rf"at.{name}: .*at most 1, got 2"):
            check_bounds(Settings(**{name: value}), "at")
    annotation: Any = typing.get_type_hints(Settings, include_extras=True)["one"]
    assert bounds_of(annotation) == share
    assert bare(annotation) == float | None


def test_info_shows_every_range(capsys):
    from eggroll.cli import plan

    loaded = load(CARTPOLE)
    said = []
    plan._tell_ranges(loaded, said.append)
    declared = [name for name, kind in kinds(loaded).items() if bounds_of(kind)]
    assert [line.split()[0] for line in said[0].splitlines()[1:]] == declared
    assert {"strategy.sigma", "task.max_steps", "task.ppo.discount"} <= set(declared)
