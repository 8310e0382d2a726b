"""The memory planner against what XLA's compiled programs take."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
import quick

import eggroll
from eggroll import EvolutionStrategy
from eggroll.evolution import memory


POPULATION = 2**14
KEY = jax.random.key(0)
MEGABYTE = 2**20


class Model(NamedTuple):
    """A function, its parameters, its data and how it is perturbed."""

    function: Any
    params: Any
    data: jax.Array
    settings: dict[str, Any] = {}  # noqa: RUF012


def mlp(params, x):
    return jnp.sum(functools.reduce(lambda x, w: jnp.tanh(x @ w), params, x))


def recurrent(params, x):
    def step(h, x):
        h = jnp.tanh(x @ params["in"] + h @ params["state"])
        return h, jnp.sum(h)

    return jnp.sum(jax.lax.scan(step, jnp.zeros(64), x)[1])


def convolution(params, x):
    names = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(
        x, params["kernel"], (1, 1), "SAME", dimension_numbers=names
    )
    return jnp.sum(jax.nn.relu(y).reshape(-1) @ params["head"])


def attention(params, tokens):
    x = params["table"][tokens]
    q, k, v = (x @ params[name] for name in "qkv")
    return jnp.sum(jax.nn.softmax(q @ k.T / 8) @ v)


def logits(params, x):
    scores = jnp.tanh(x @ params["in"]) @ params["out"]
    return jnp.sum(jax.nn.log_softmax(scores)[:, 0])


SQUARES = [jnp.zeros((64, 64))] * 3
MODELS = {
    # what takes the memory: noise ...
    "signs": Model(mlp, SQUARES, jnp.ones(64)),
    "gaussian factors": Model(
        mlp, SQUARES, jnp.ones(64), {"rank": 8, "noise": "gaussian"}
    ),
    "full rank": Model(mlp, SQUARES, jnp.ones(64), {"rank": None}),
    # ... or activations
    "batch": Model(mlp, SQUARES, jnp.ones((32, 64))),
    "recurrent": Model(
        recurrent,
        {"in": jnp.zeros((16, 64)), "state": jnp.zeros((64, 64))},
        jnp.ones((50, 16)),
    ),
    "convolution": Model(
        convolution,
        {"kernel": jnp.zeros((3, 3, 4, 16)), "head": jnp.zeros((4096, 10))},
        jnp.ones((1, 16, 16, 4)),
    ),
    "attention": Model(
        attention,
        {"table": jnp.zeros((100, 64)), **dict.fromkeys("qkv", jnp.zeros((64, 64)))},
        jnp.arange(32),
    ),
    "logits": Model(
        logits,
        {"in": jnp.zeros((64, 32)), "out": jnp.zeros((32, 1000))},
        jnp.ones((8, 64)),
    ),
}


def taken(function, *args) -> int:
    """Bytes of temporary arrays of the compiled function."""
    analysis: Any = quick.jit(function).lower(*args).compile().memory_analysis()
    return analysis.temp_size_in_bytes


@pytest.mark.parametrize("name", MODELS)
def test_a_population_takes_about_the_memory_that_it_may(name):
    """At most a quarter more, at least an eighth: of two budgets, and in between.

    What comes on top, for all members together, cancels in the difference.
    """
    model = MODELS[name]

    def evaluation(budget):
        es = EvolutionStrategy(
            POPULATION, sigma=0.1, memory_bytes=budget, **model.settings
        )
        return taken(es.ask(model.function), model.params, KEY, model.data)

    small, large = (evaluation(budget) for budget in (MEGABYTE, 4 * MEGABYTE))
    assert small < 1.25 * MEGABYTE
    assert large < 1.25 * 4 * MEGABYTE
    assert large - small > 3 * MEGABYTE / 8


@pytest.mark.parametrize("name", ["signs", "gaussian factors", "full rank"])
def test_an_update_takes_about_the_memory_that_it_may(name):
    model = MODELS[name]

    def update(budget):
        es = EvolutionStrategy(
            POPULATION, sigma=0.1, memory_bytes=budget, **model.settings
        )
        ask = quick.jit(es.ask(lambda p: p[0][0, 0]))
        _, generation = jax.eval_shape(ask, model.params, KEY)
        return taken(es.gradient, generation, jnp.zeros(POPULATION))

    small, large = (update(budget) for budget in (MEGABYTE, 4 * MEGABYTE))
    assert small < 1.25 * MEGABYTE
    assert large < 1.25 * 4 * MEGABYTE
    assert large - small > 3 * MEGABYTE / 8


@pytest.mark.parametrize("chunk_size", [64, 256])
def test_a_chunk_takes_at_most_what_is_planned_for_its_members(chunk_size):
    model = MODELS["batch"]
    planned = eggroll.coverage(model.function, model.params, model.data)
    es = EvolutionStrategy(POPULATION, sigma=0.1, chunk_size=chunk_size)
    found = taken(es.ask(model.function), model.params, KEY, model.data)
    share = found / (chunk_size * planned.bytes_per_member)
    assert 0.5 < share < 1


def test_memory_does_not_grow_with_the_population():
    model = MODELS["batch"]

    def found(population):
        es = EvolutionStrategy(population, sigma=0.1, memory_bytes=MEGABYTE)
        return taken(es.ask(model.function), model.params, KEY, model.data)

    # but for the members' numbers and their results, a few bytes each
    assert found(2**14) - found(2**12) < 32 * (2**14 - 2**12)


@pytest.mark.parametrize(
    ("available", "each", "rows"),
    [(100, 10, 10), (99, 10, 9), (109, 10, 10), (5, 10, 1), (0, 10, 1), (7, 0, 7)],
)
def test_as_many_rows_are_planned_as_fit_and_one_at_least(available, each, rows):
    assert memory.rows_within(available, each) == rows


class Device:
    """A device that tells (or does not tell) how much memory it has."""

    def __init__(self, stats):
        self.memory_stats = lambda: stats


def test_a_budget_is_a_quarter_of_what_a_device_has(monkeypatch):
    device = Device({"bytes_limit": 80_000, "bytes_in_use": 5})
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert memory.budget() == 20_000


@pytest.mark.parametrize("stats", [None, {}, {"bytes_in_use": 5}])
@pytest.mark.parametrize("devices", [1, 8])
def test_devices_that_do_not_tell_share_the_memory_of_the_machine(
    monkeypatch, stats, devices
):
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(stats)] * devices)
    monkeypatch.setattr(jax, "local_device_count", lambda: devices)
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr("os.sysconf", pages.__getitem__)
    monkeypatch.setattr(memory, "LIMITS", ())
    assert memory.budget() == math.floor(4096 * 1000 / devices / 4)


@pytest.mark.parametrize(
    ("file", "said", "expected"),
    [
        ("memory.max", "400000\n", 100_000),
        ("memory.max", "max\n", 1_024_000),
        ("memory/memory.limit_in_bytes", "800000\n", 200_000),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", 1_024_000),
        ("other", "1\n", 1_024_000),
    ],
)
def test_a_container_has_the_memory_that_it_may_take(
    monkeypatch, tmp_path, file, said, expected
):
    (tmp_path / "memory").mkdir()
    (tmp_path / file).write_text(said)
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(None)])
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr("os.sysconf", pages.__getitem__)
    assert memory.budget() == expected


def test_views_of_a_weight_are_not_planned_for_each_member():
    weight = {"table": jnp.zeros((1000, 64))}

    def tied(params, token):
        return jnp.max(params["table"][token] @ params["table"].T)

    planned = eggroll.coverage(tied, weight, jnp.array(3)).bytes_per_member
    assert planned < weight["table"].nbytes / 4
    written = eggroll.coverage(tied, weight, jnp.array(3), rank=None).bytes_per_member
    assert written > weight["table"].nbytes


def test_a_merged_adapter_is_not_planned_for_each_member():
    params = {"w": jnp.zeros((128, 128)), "a": jnp.zeros((128, 2))}
    merged = lambda p, x: jnp.sum(x @ (p["w"] + p["a"] @ p["a"].T))
    planned = eggroll.coverage(merged, params, jnp.ones(128)).bytes_per_member
    assert planned < params["w"].nbytes / 8


def test_a_weight_that_must_be_written_out_is_planned_with_it():
    solve = lambda w, x: jnp.sum(jax.scipy.linalg.solve_triangular(w, w @ x))
    rules = {"params": eggroll.low_rank()}
    report = eggroll.coverage(solve, jnp.eye(64), jnp.ones(64), rules=rules)
    assert report.written_out == ("params",)
    assert report.bytes_per_member > jnp.eye(64).nbytes


def test_what_a_loop_changes_in_place_is_planned_once():
    def filled(params, x):
        def turn(carry):
            i, rows = carry
            return i + 1, jax.lax.dynamic_update_index_in_dim(rows, x @ params, i, 0)

        start = (0, jnp.zeros((1000, 8)))
        return jax.lax.while_loop(lambda carry: carry[0] < 1000, turn, start)[1].sum()

    planned = eggroll.coverage(filled, jnp.zeros((8, 8)), jnp.ones(8))
    assert 1 <= planned.bytes_per_member / (1000 * 8 * 4) < 1.1
