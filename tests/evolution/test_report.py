"""The report of how each leaf of a model is evaluated."""

import jax
import jax.numpy as jnp
import pytest

import eggroll


def abstract(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


PARAMS = {
    "embed": abstract(9, 4),
    "layers": abstract(3, 4, 4),
    "mask": abstract(4, 4),
    "scale": abstract(4),
    "step": abstract(dtype=jnp.int32),
}


def model(p, tokens):
    h = p["embed"][tokens]
    h = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), 0), h, p["layers"])[0]
    h = h @ p["mask"] + jnp.sum(jnp.abs(p["mask"]))
    return (h * p["scale"]) @ p["embed"].T + p["step"]


REPORT = eggroll.coverage(model, PARAMS, abstract(5, dtype=jnp.int32), rank=2)


def test_it_names_the_operations_that_use_a_leaf():
    assert REPORT["embed"].operations == ("gather", "dot_general")
    assert REPORT["layers"].operations == ("scan", "dot_general")


def test_it_names_the_low_rank_leaves_that_are_written_out_and_by_what():
    assert REPORT.written_out == ("mask",)
    assert REPORT["mask"].materialised == ("abs",)
    assert not REPORT["scale"].is_written_out


def test_it_counts_the_bytes_of_a_member():
    assert REPORT["layers"].bytes_per_member == 7 * REPORT["layers"].layout.values
    assert REPORT.bytes_per_member > sum(x.bytes_per_member for x in REPORT.leaves)


def test_it_prints_as_a_table():
    lines = str(REPORT).splitlines()
    assert lines[0].split("  ")[0] == "leaf"
    rows = {line.split()[0]: line for line in lines[1:]}
    assert "9 × 4" in rows["embed"]
    assert "rank 2, 9 × 4" in rows["embed"]
    assert "3 of rank 2, 4 × 4" in rows["layers"]
    assert "abs" in rows["mask"]
    assert "full rank" in rows["scale"]
    assert "scalar" in rows["step"]
    assert "frozen" in rows["step"]


def test_rules_apply():
    rules = {"mask": eggroll.full_rank(), "layers": eggroll.low_rank(4)}
    report = eggroll.coverage(
        model, PARAMS, abstract(5, dtype=jnp.int32), rank=1, rules=rules
    )
    assert report.written_out == ()
    assert report["layers"].layout.rank == 4


def test_a_function_may_take_a_key():
    noisy = lambda p, x, key: x @ p + jax.random.normal(key, (3,))
    report = eggroll.coverage(noisy, abstract(4, 3), abstract(5, 4))
    assert report["params"].operations == ("dot_general",)


def test_a_path_that_is_not_there_is_a_key_error():
    with pytest.raises(KeyError, match="head"):
        REPORT["head"]


# --- Leaves that are stopped, or not used


STUDENT = {"net": abstract(4, 3), "teacher": abstract(4, 3), "spare": abstract(3)}


def distilled(p, x):
    """A loss and more: a student and its stopped self learn from a stopped teacher."""
    own = jnp.tanh(x @ p["net"])
    taught = jax.lax.stop_gradient(own + jnp.tanh(x @ p["teacher"]))
    return jnp.mean((own - taught) ** 2), p["spare"]


def test_leaves_that_a_loss_cannot_learn_are_named():
    lines = str(
        eggroll.coverage(distilled, STUDENT, abstract(5, 4), is_loss=True)
    ).splitlines()
    rows = {line.split()[0]: line for line in lines[1:]}
    assert "stopped" in rows["teacher"]
    assert "unused" in rows["spare"]
    assert "rank 1, 4 × 3" in rows["net"]
    assert len(lines) == 5
    assert "in part through stop_gradient" in lines[-1]
    assert "the total derivative" in lines[-1]
    assert lines[-1].endswith(": net")


def test_stops_of_a_black_box_are_mentioned():
    lines = str(eggroll.coverage(distilled, STUDENT, abstract(5, 4))).splitlines()
    assert lines[-1].endswith("fitness and ask evolve them: teacher")
    assert lines[-2].endswith(": net")


def test_a_softmax_is_no_reason_to_mention_a_stop():
    report = eggroll.coverage(
        lambda w, x: jax.nn.softmax(x @ w), abstract(4, 3), abstract(5, 4)
    )
    assert "stop_gradient" not in str(report)
