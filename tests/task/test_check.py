import dataclasses
from typing import Any

import jax.numpy as jnp
import pytest
from jax.core import Tracer
from toy import Line, Remembering, ScoredOutside

from eggroll import Task, UserError, check_task
from eggroll.task import first_row, rows


@pytest.mark.parametrize("task", [Line(), Remembering(), ScoredOutside()])
def test_a_sound_task_passes_and_yields_its_metrics(task):
    assert list(check_task(task)) == ["error", "bias"]


def with_evaluate(result: Any) -> Task:
    """`Remembering`, but `evaluate` returns what `result(fitness, carry, aux)` does."""

    class Wrong(Remembering):
        def evaluate(self, params, data, carry, key):
            return result(*super().evaluate(params, data, carry, key))

    return Wrong()


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda f, c, a: f, "expected the three results"),
        (
            lambda f, c, a: (jnp.ones(3), c, a),
            r"one number as fitness, got float32\[3\]",
        ),
        (lambda f, c, a: (f > 0, c, a), "a real number as fitness, got bool"),
        (lambda f, c, a: (f, (c, c), a), "carry to keep its structure"),
        (lambda f, c, a: (f, c[:1], a), r"float32\[2\] at 'the top', got float32\[1\]"),
        (lambda f, c, a: (f, c.astype(int), a), r"got int32\[2\]"),
        (lambda f, c, a: (f, c, f), "expected a dictionary as aux"),
        (lambda f, c, a: (f, c, {"steps": c}), r"one number in aux at .*steps"),
        (
            lambda f, c, a: (f, c, {"metrics": {"m": c}}),
            r"metrics.*m.*got float32\[2\]",
        ),
    ],
)
def test_an_evaluation_of_the_wrong_form_is_refused(result, message):
    with pytest.raises(UserError, match=f"Wrong: evaluate: .*{message}"):
        check_task(with_evaluate(result))


def with_method(name: str, method: Any) -> Task:
    return type("Wrong", (Remembering,), {name: method})()


@pytest.mark.parametrize(
    ("name", "method", "message"),
    [
        (
            "init",
            lambda self, key: {"n": jnp.ones(3, int)},
            "init: expected an array of",
        ),
        ("init", lambda self, key: {}, "init: expected an array of floats"),
        ("validate", lambda self, *_: 3.0, "validate: expected a dictionary"),
        ("validate", lambda self, *_: {}, "validate: expected a dictionary"),
        ("validate", lambda self, *_: {"a": "b"}, "expected a number as 'a', got 'b'"),
        ("validate", lambda self, *_: {"a": jnp.ones(2)}, "expected a number as 'a'"),
        (
            "initial_carry",
            lambda self, n: jnp.ones(3),
            "leading axis of the population",
        ),
        ("update_state", lambda self, s, a: (), "update_state: .* keep its structure"),
        ("batch", None, "has no method 'batch'"),
    ],
)
def test_a_method_that_breaks_the_protocol_is_refused(name, method, message):
    with pytest.raises(UserError, match=message):
        check_task(with_method(name, method), population=4)


def test_a_task_need_not_inherit():
    @dataclasses.dataclass(frozen=True)
    class Alone:
        differentiable = False
        data_axes = None

        def __getattr__(self, name):
            return getattr(Line(), name)

    assert check_task(Alone())["error"] > 0


def test_the_first_member_sees_the_first_row_of_its_axes():
    data = {"own": jnp.arange(6).reshape(3, 2), "all": jnp.arange(4)}
    row = first_row(data, {"own": 0, "all": None})
    assert row["own"].tolist() == [0, 1]
    assert row["all"].shape == (4,)
    assert rows(data, {"own": 0, "all": None}) == 3
    assert rows(data, None) == 1


def test_nothing_is_computed_by_the_check_but_a_batch_and_a_validation():
    traced = []

    class Counting(Line):
        def evaluate(self, params, data, carry, key):
            traced.append(isinstance(params["w"], Tracer))
            return super().evaluate(params, data, carry, key)

    check_task(Counting())
    assert traced
    assert all(traced)
