"""The doctor names what was planted, and is silent where nothing is wrong."""

import dataclasses

import numpy as np
import pytest
import sick  # noqa: F401 - named in settings
import yaml
from toyrun import config, train

from eggroll import UserError, runs
from eggroll.cli.main import main
from eggroll.config import plain
from eggroll.runs import metrics
from eggroll.training import doctor
from eggroll.training.doctor import Case


HEALTHY = {
    "fitness/mean": 1.0,
    "fitness/best": 4.0,
    "fitness/worst": -2.0,
    "fitness/median": 1.0,
    "fitness/spread": 1.0,
    "fitness/tied": 0.0,
    "fitness/nonfinite": 0.0,
    "fitness/unusable": 0.0,
    "shaped/effective": 0.6,
    "shaped/largest": 2.0,
    "gradient/norm": 1.0,
    "update/ratio": 0.1,
    "update/lost": 0.0,
    "update/rms": 0.01,
    "update/largest": 0.2,
    "update/leaf": 1.0,
    "parameters/rms": 0.1,
    "parameters/largest": 2.0,
    "parameters/leaf": 1.0,
}
SETTINGS = {"strategy": {"sigma": 0.05, "noise_reuse": 1}, "precision": "float32"}
STEPS = 40


def case(settings=None, maximise=True, rows=None, steps=STEPS, **figures):
    """A run that is well but for some figures, each a number or one of each step."""
    table = {**HEALTHY, "gradient/agreement": 0.3, **figures}
    columns = {name: np.broadcast_to(value, steps) for name, value in table.items()}
    rows = [
        {"step": i, **{name: float(column[i]) for name, column in columns.items()}}
        for i in range(steps)
    ]
    return Case(rows, {**SETTINGS, **(settings or {})}, maximise, ("head", "body"))


def names(case):
    return [finding.name for finding in doctor.findings(case)]


RISING = np.linspace(0, 4, STEPS) + 0.1 * np.cos(np.arange(STEPS))


def falling(end):
    schedule = {"start": 0.5, "end": end, "steps": 1000, "kind": "exponential"}
    return {"sigma": schedule}


SOLVED = {
    "fitness/mean": np.where(np.arange(STEPS) < 9, 20.0, 500.0),
    "fitness/best": 500.0,
    "fitness/median": 500.0,
    "fitness/worst": np.where(np.arange(STEPS) < 9, 9.0, 500.0),
    "fitness/spread": np.where(np.arange(STEPS) < 9, 20.0, 0.0),
    "fitness/tied": 1.0,
    "gradient/agreement": 0.0,
    "gradient/norm": np.where(np.arange(STEPS) < 9, 1.0, 0.0),
    "shaped/largest": np.where(np.arange(STEPS) < 9, 2.0, 0.0),
}
BINARY = {
    "fitness/best": 1.0,
    "fitness/worst": 0.0,
    "fitness/median": 0.0,
    "fitness/spread": 0.45,
    "fitness/tied": 1.0,
}


@pytest.mark.parametrize(
    "well",
    [
        case(),
        case(**SOLVED),
        case(**{**SOLVED, "fitness/mean": np.where(np.arange(STEPS) < 2, 9, 500)}),
        case(**{**SOLVED, "fitness/spread": 20.0, "fitness/tied": 0.1}),  # in pairs
        case(**{"fitness/spread": 0.0}),  # of one member
        case(**BINARY),
        case(**{"gradient/agreement": 0.0, "fitness/mean": RISING}),
        case(**{"update/largest": 2.0, "update/ratio": 0.9}),
        case(
            {"strategy": {"sigma": 0.001}, "precision": "bfloat16"},
            **{"parameters/rms": 0.05, "update/ratio": 1e-3},
        ),
        case({"strategy": {"sigma": 0.05, "noise_reuse": 4}}),
        case(
            {"strategy": {"sigma": 0.01}, "precision": "bfloat16"},
            **{"update/rms": 0.1, "update/ratio": 0.01},
        ),
        case(**{"fitness/mean": RISING, "validation/error": -RISING}, maximise=False),
        case({"strategy": {"sigma": 0.5}}, **{"gradient/agreement": 0.2}),
    ],
)
def test_nothing_is_said_of_what_is_well(well):
    assert names(well) == []


@pytest.mark.parametrize(
    ("name", "ill"),
    [
        ("failing members", case(**{"fitness/nonfinite": 0.3})),
        ("failing members", case(**{"fitness/unusable": 0.9})),
        (
            "constant fitness",
            case(**{"fitness/spread": 0.0, "fitness/tied": 1.0, "gradient/norm": 0.0}),
        ),
        (
            "rewards nearly equal",
            case(**{**BINARY, "fitness/spread": 0.06, "shaped/effective": 0.01}),
        ),
        ("nothing to compare", case(**{"shaped/largest": 0.0})),
        (
            "sigma too small",
            case(
                {"strategy": {"sigma": 1e-4}, "precision": "bfloat16"},
                **{"update/ratio": 1e-4},
            ),
        ),
        (
            "sigma too small",
            case({"strategy": {"sigma": 1e-8}}, **{"update/rms": 1e-9}),
        ),
        (
            "sigma too large",
            case({"strategy": {"sigma": 0.5}}, **{"gradient/agreement": 0.0}),
        ),
        (
            "sigma too large",
            case({"strategy": falling(0.4)}, **{"gradient/agreement": 0.0}),
        ),
        # which a schedule lowers in time
        ("no signal", case({"strategy": falling(0.01)}, **{"gradient/agreement": 0.0})),
        ("learning rate too high", case(**{"update/rms": 0.2})),
        ("learning rate too low", case(**{"update/rms": 1e-6})),
        ("one leaf explodes", case(**{"update/largest": 3.0})),
        (
            "one leaf explodes",
            case(**{"parameters/largest": np.geomspace(2, 90, STEPS)}),
        ),
        ("noise reused", case({"strategy": {"sigma": 0.05, "noise_reuse": 10**6}})),
        (
            "sign flipped",
            case(
                **{"fitness/mean": RISING, "validation/error": RISING}, maximise=False
            ),
        ),
        (
            "sign flipped",
            case(**{"fitness/mean": RISING, "validation/return": -RISING}),
        ),
        ("sigma ran away", case(sigma=np.geomspace(0.01, 20, STEPS))),
        ("updates lost", case(**{"update/lost": 0.9})),
        ("nothing moves", case(**{"update/ratio": 0.0, "update/rms": 0.0})),
        ("weights saturated", case(**{"weights/saturated": 0.5})),
        ("no weight moves", case(**{"update/changed": 0.0})),
        ("few decide all", case(**{"shaped/effective": 0.01})),
        ("no signal", case(**{"gradient/agreement": 0.0})),
    ],
)
def test_each_sickness_is_named_alone_by_its_figures(name, ill):
    assert names(ill) == [name]


def test_of_a_few_steps_nothing_is_said():
    assert names(case(steps=4, **{"update/lost": 0.9})) == []


def test_figures_that_an_algorithm_does_not_have_are_no_sickness():
    figures = {"fitness/mean": 1.0, "fitness/spread": 1.0}
    assert names(Case([{"step": i, **figures} for i in range(9)], {})) == []
    assert names(Case([{"step": i} for i in range(9)], {"strategy": None})) == []


def test_a_finding_names_the_leaf():
    (found,) = doctor.findings(case(**{"update/largest": 3.0}))
    assert "the leaf body moves by 3.0 times its own size" in found.words


@pytest.mark.parametrize(
    ("figure", "passes"),
    [
        ("fitness/mean", doctor.improves),
        ("gradient/agreement", lambda case: not doctor.is_noise(case)),
    ],
)
def test_chance_seldom_passes_for_a_trend_or_a_signal(figure, passes):
    """Of noise alone: 2 standard errors are passed in one of 40 runs, about."""
    draw = np.random.default_rng(0).normal
    cases = [case(**{figure: 0.1 * draw(size=STEPS)}) for _ in range(400)]
    assert np.mean([passes(one) for one in cases]) < 0.03 + 5 * np.sqrt(0.03 / 400)


# --- real runs


PLANTED = [
    (
        "sigma too small",
        "Wide",
        ("precision=bfloat16", "sigma=1e-4", "learning_rate=1e-4"),
    ),
    ("sigma too large", "Deep", ("sigma=100",)),
    ("learning rate too high", "Wide", ("learning_rate=10",)),
    ("constant fitness", "Constant", ()),
    ("noise reused", "Wide", ("noise_reuse=100000",)),
    ("nothing moves", "Wide", ("learning_rate=0",)),
    ("nothing to compare", "Lottery", ()),
    ("sign flipped", "Flipped", ()),
    ("rewards nearly equal", "Hard", ("population=256", "learning_rate=1e-4")),
    ("one leaf explodes", "Runaway", ("generations=200", "learning_rate=0.2")),
    ("failing members", "Failing", ()),
    ("no signal", "Noise", ()),
]
QUICK = ("learning rate too high", "sign flipped")


def diagnosed(tmp_path, task, *settings):
    words = "algorithm=eggroll", "population=32", "generations=40", "diagnose_every=2"
    made = config(tmp_path, "evaluate_every=2", *words, *settings)
    task = dataclasses.replace(made.task, path=f"sick:{task}", options={})
    made = dataclasses.replace(made, task=task)
    run, _ = train(made)
    outline = runs.outline(run.path)
    rows = metrics.read(run.metrics)
    return names(Case(rows, plain(made), outline.maximise, outline.leaves))


@pytest.mark.parametrize("task", ["Wide", pytest.param("Deep", marks=pytest.mark.slow)])
def test_a_run_that_is_well_is_called_so(tmp_path, task):
    assert diagnosed(tmp_path, task) == []


@pytest.mark.parametrize(
    ("name", "task", "settings"),
    [
        pytest.param(*one, marks=() if one[0] in QUICK else pytest.mark.slow, id=one[0])
        for one in PLANTED
    ],
)
def test_what_was_planted_is_named(tmp_path, name, task, settings):
    assert diagnosed(tmp_path, task, *settings) == [name]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('strategy.rules={"**": "frozen"}', "nothing to evolve"),
        ('strategy.shaping={"name": "groups", "size": 1}', "at least 2 members"),
    ],
)
def test_what_can_be_known_before_is_refused_before(tmp_path, setting, message):
    with pytest.raises(UserError, match=message):
        train(config(tmp_path, "algorithm=eggroll", setting))


# --- the command


def test_the_command_says_what_is_wrong_and_what_to_try(tmp_path, capsys):
    path = tmp_path / "run"
    path.mkdir()
    (path / "config.yaml").write_text(yaml.safe_dump({"task": {"class": "no.such:X"}}))
    ill = case(**{"update/lost": 0.9})
    sink = metrics.JsonLines(path / "metrics.jsonl")
    for row in ill.rows:
        sink.write(int(row["step"]), {k: v for k, v in row.items() if k != "step"})
    sink.close()
    assert main(["doctor", str(path)]) == 1
    said = capsys.readouterr().out
    assert f"{path}: 40 steps" in said
    assert "updates lost: rounding swallows 90% of the updates.\n    Try: raise" in said
    assert "gradient/agreement       0.3" in said
