from pathlib import Path

import pytest

from eggroll import config as settings
from eggroll.config import Schedule, draft, plain, yamlfile
from eggroll.errors import UserError
from eggroll.training import instantiate


TEXT = """\
task:
  class: toy:Line
  inputs: 4
strategy:
  population: 16
  sigma: {start: 0.1, end: 0.01, steps: 20, kind: exponential}
  rules: {"**/b*": full_rank, w: {name: low_rank, rank: 2}}
optimizer:
  name: adam
  learning_rate: 1e-2
  b1: 0.5
budget: {generations: 5}
algorithms:
  backprop: {learning_rate: 0.5, optimizer.b1: 0.25}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "line.yaml"
    path.write_text(TEXT)
    return path


def load(path: Path, *words: str):
    pairs = [word.removeprefix("--").split("=", 1) for word in words]
    return settings.load(path, [(name, text) for name, text in pairs])


def test_settings_are_read_with_their_types(path):
    config = load(path)
    assert config.optimizer.learning_rate == Schedule(start=0.01)
    assert config.optimizer.options == {"b1": 0.5}
    assert config.task.options["inputs"] == 4
    assert config.task.options["label"] == "line", "defaults are written out too"


def test_settings_written_out_read_back_the_same(path, tmp_path):
    config = load(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(yamlfile.dump(plain(config)))
    assert settings.load(copy) == config


@pytest.mark.parametrize(
    ("word", "read"),
    [
        ("--population=32", lambda config: config.strategy.population == 32),
        ("--strategy.population=32", lambda config: config.strategy.population == 32),
        ("--population=1e3", lambda config: config.strategy.population == 1000),
        ("--sigma=0.2", lambda config: config.strategy.sigma == Schedule(start=0.2)),
        ("--sigma.end=0.02", lambda config: config.strategy.sigma.end == 0.02),
        ("--learning-rate=2e-3", lambda c: c.optimizer.learning_rate.start == 2e-3),
        ("--inputs=7", lambda config: config.task.options["inputs"] == 7),
        ("--sizes=[1, 2]", lambda config: config.task.options["sizes"] == (1, 2)),
        ("--label=7", lambda config: config.task.options["label"] == "7"),
        ("--b1=0.1", lambda config: config.optimizer.options == {"b1": 0.1}),
        ("--b2=0.1", lambda config: config.optimizer.options == {"b1": 0.5, "b2": 0.1}),
        ("--name=hello", lambda config: config.name == "hello"),
        ("--sinks=[tensorboard]", lambda config: config.sinks == ("tensorboard",)),
        ("--seconds=5", lambda config: config.budget.seconds == 5.0),
        ("--task=toy:Remembering", lambda c: c.task.options["inputs"] == 4),
    ],
)
def test_an_override_sets_the_setting_it_names(path, word, read):
    assert read(load(path, word))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--task={class: toy:Line, inputs: 9}", "--label=x"), {"task.inputs": 9}),
        (
            ("--sigma={start: 0.2, end: 1, steps: 9, kind: linear}", "--sigma.end=0.1"),
            {"strategy.sigma.start": 0.2, "strategy.sigma.end": 0.1},
        ),
        (
            ("--optimizer={name: sgd, momentum: 0.5}", "--optimizer.learning-rate=1"),
            {"optimizer.momentum": 0.5, "optimizer.learning_rate": 1.0},
        ),
        (
            ("--optimizer={name: clipup, momentum: 0.5}", "--max-speed=0.3"),
            {"optimizer.momentum": 0.5, "optimizer.max_speed": 0.3},
        ),
        (
            ("--optimizer={name: sgd, momentum: 0.5}", "--anchor=0.1"),
            {"optimizer.momentum": 0.5, "optimizer.anchor": 0.1},
        ),
        (
            ("--budget={seconds: 5}", "--generations=3"),
            {"budget.seconds": 5.0, "budget.generations": 3},
        ),
        (
            ("--rules={w: frozen, b: {name: low_rank, rank: 2}}",),
            {"strategy.rules.w": "frozen"},
        ),
    ],
)
def test_several_settings_may_be_typed_as_one_mapping(path, words, expected):
    found = settings.flat(load(path, *words))
    assert found.items() >= expected.items()


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (("--population=8", "--b1=0.5", "--inputs=3", "--sigma=0.2"), 1),
        (("--task=toy:Remembering", "--population=8", "--optimizer=adamw"), 3),
    ],
)
def test_the_settings_there_are_change_only_with_the_task_and_the_optimiser(
    path, monkeypatch, words, count
):
    found, types = [], draft._setting_types
    monkeypatch.setattr(
        draft, "_setting_types", lambda tree: found.append(tree) or types(tree)
    )
    load(path, *words)
    assert len(found) == count


def test_what_is_no_group_has_no_settings_below_it(path):
    path.write_text(TEXT.replace("{generations: 5}", "5"))
    with pytest.raises(UserError, match="budget: expected its settings by name, got 5"):
        load(path, "--seconds=3")


def test_another_optimiser_keeps_the_learning_rate(path):
    config = load(path, "--optimizer.b1=0.9", "--optimizer=adamw")
    assert config.optimizer.name == "adamw"
    assert config.optimizer.learning_rate.start == 0.01


def test_the_settings_of_an_algorithm_apply_when_it_is_chosen(path):
    assert load(path).optimizer.learning_rate.start == 0.01
    chosen = load(path, "--algorithm=backprop")
    assert chosen.optimizer.learning_rate.start == 0.5
    assert chosen.optimizer.options == {"b1": 0.25}
    assert load(path, "--algorithm=backprop", "--b1=0.75").optimizer.options == {
        "b1": 0.75
    }


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--populaton=3", r"no setting 'populaton': did you mean 'population'\?"),
        ("--strategy.sgma=3", r"did you mean 'strategy.sigma'\?"),
        ("--input=3", r"did you mean 'inputs'\?"),
        ("--rate=3", r"did you mean 'learning_rate'\?"),
        ("--population=many", "strategy.population: expected int, got 'many'"),
        ("--population=2.5", "strategy.population: expected int, got 2.5"),
        ("--inputs=[1]", "task.inputs: expected int"),
        ("--sizes=[a]", r"task.sizes\[0\]: expected int, got 'a'"),
        ("--noise=[", r"expected 'rademacher' or 'gaussian'|may mean"),
        ("--start=3", "may mean 'strategy.sigma.start' or 'optimizer.learning_rate.st"),
        ("--optimizer=adm", r"no optimiser in optax 'adm': did you mean 'adam"),
        ("--optimizer=sgd", "no setting 'optimizer.b1'"),
        ("--task=toy:Lin", r"no class in toy 'Lin': did you mean 'Line'\?"),
        ("--task=nothing:Line", "no module 'nothing'"),
        ("--task=Line", "expected a path like 'tasks.control:Control'"),
        ("--task=optax:adam", "expected a dataclass"),
        ("--evaluate-every=0", "evaluate_every: expected at least 1, got 0"),
        ("--sigma.kind=linar", "'exponential' or 'cosine', got 'linar'"),
        ("--sigma.steps=0", "strategy.sigma.steps: expected at least 1, got 0"),
        ("--b1=big", "optimizer.b1: expected a number, as its default 0.9"),
    ],
)
def test_a_wrong_override_is_refused_with_what_to_do(path, word, message):
    with pytest.raises(UserError, match=message):
        load(path, word)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("strategy:", "strategy: {"), r"line.yaml, line \d+"),
        (("population", "popul"), r"line.yaml: .*did you mean 'strategy.population'\?"),
        (("inputs: 4", "inputs: four"), "task.inputs: expected int, got 'four'"),
        (
            ("  inputs: 4", "  inputs: 4\n  inputs: 5"),
            "line 4, column 3: 'inputs' is given",
        ),
        (("budget: {generations: 5}", ""), "the setting 'budget' is missing"),
        (("{generations: 5}", "{}"), "needs `generations` or `seconds`"),
        (("  class: toy:Line\n", ""), "'task.class' is missing"),
        ((", kind: exponential", ""), "needs `kind`"),
        (
            ("end: 0.01", "end: -1"),
            "exponential schedule needs `start` and `end` above 0",
        ),
        (("backprop: {", "eggroll: {nothing: 1, "), "no setting 'nothing'"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(tmp_path, change, message):
    path = tmp_path / "line.yaml"
    path.write_text(TEXT.replace(*change))
    with pytest.raises(UserError, match=message):
        settings.load(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        settings.load(tmp_path / "none.yaml")


def test_bytes_are_refused(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match="cannot be read"):
        settings.load(tmp_path / "binary.yaml")


def test_floats_may_be_written_without_a_point():
    assert yamlfile.parse("[1e-3, 2E5, -1e2, 1.5, 3]") == [1e-3, 2e5, -100.0, 1.5, 3]


@pytest.mark.parametrize("kind", ["linear", "exponential", "cosine"])
def test_a_schedule_goes_from_start_to_end_in_its_steps(kind):
    value = instantiate.schedule(Schedule(start=0.1, end=0.01, steps=50, kind=kind))
    assert callable(value)
    assert value(0) == pytest.approx(0.1)
    assert value(50) == pytest.approx(0.01)
    assert value(500) == pytest.approx(0.01)
    assert 0.01 < float(value(25)) < 0.1


def test_a_task_that_refuses_its_settings_is_heard(path):
    with pytest.raises(UserError, match="task: inputs must be at least 1, got 0"):
        instantiate.task(load(path, "--inputs=0"))
