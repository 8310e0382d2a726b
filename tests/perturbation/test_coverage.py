"""No matrix loses its low rank in silence.

Programs of matrices that meet something on their way to a product: each keeps its low
rank, and agrees with the plain function, or coverage names the operation that takes it,
and strict refuses the program.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from members import agree

import eggroll
from eggroll import full_rank


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(shape).normal(size=shape), jnp.float32)


P = {"w": normal(8, 12), "v": normal(9, 12)[1:], "g": normal(12), "b": normal(3, 4)}
P["t"] = normal(7, 12)  # a table
P["f"] = normal(1, 12)  # frozen
P["s"] = normal(2, 8, 8)  # layers
X, EYE, ROW = normal(5, 8), jnp.eye(8, 12), normal(12)
ORDER = jnp.array([5, 2, 2])
RULES = {"f": eggroll.frozen}
SHARDING = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("x",)), PartitionSpec("x"))
IMAGE = normal(1, 8, 5)


@jax.custom_batching.custom_vmap
def with_vmap(w, x):
    return x @ w


@with_vmap.def_vmap
def _(_, batched, w, x):
    axes = [0 if is_batched else None for is_batched in batched]
    return jax.vmap(lambda w, x: x @ w, axes)(w, x), True


# name: (function, the leaves that lose their low rank and the operation that takes it)
PROGRAMS: dict[str, tuple[Any, dict[str, str]]] = {
    # linear in the weight
    "copied": (lambda p, x: x @ jnp.copy(p["w"]), {}),
    "named": (lambda p, x: x @ checkpoint_name(p["w"], "kernel"), {}),
    "put on a device": (
        lambda p, x: jnp.dot(*jax.device_put((x, p["w"]), jax.devices()[0])),
        {},
    ),
    "constrained": (
        lambda p, x: x @ lax.with_sharding_constraint(p["w"], SHARDING),
        {},
    ),
    "custom_vmap": (lambda p, x: with_vmap(p["w"], x), {}),
    "a branch for each platform": (
        lambda p, x: lax.platform_dependent(
            x, p["w"], cpu=lambda x, w: x @ w, default=lambda x, w: x @ (w * 1.0)
        ),
        {},
    ),
    "times a number": (lambda p, x: x @ (p["w"] * 3), {}),
    "times a number of data": (lambda p, x: x @ (p["w"] * x.mean()), {}),
    "unchanged in fori_loop": (
        lambda p, x: lax.fori_loop(
            0, 2, lambda _, c: (jnp.tanh(c[0] @ c[1]), c[1]), (x, p["w"][:, :8])
        )[0],
        {},
    ),
    "unchanged in while": (
        lambda p, x: lax.while_loop(
            lambda c: c[0].sum() < 0,
            lambda c: (c[0] + jnp.abs(c[0] @ c[1]), c[1]),
            (x, p["w"][:, :8]),
        )[0],
        {},
    ),
    "plus a number": (lambda p, x: x @ (1 + p["w"]), {}),
    "plus constants": (lambda p, x: x @ (p["w"] + EYE), {}),
    "minus constants": (lambda p, x: x @ (p["w"] - EYE), {}),
    "constants minus it": (lambda p, x: x @ (EYE - p["w"]), {}),
    "sum of two": (lambda p, x: x @ (2 * p["w"] + p["v"]), {}),
    "difference of two": (lambda p, x: x @ (p["w"] - p["v"] / 3), {}),
    "a complex pair": (lambda p, x: (x @ (p["w"] + 1j * p["v"])).real, {}),
    "a complex pair, made by lax": (
        lambda p, x: jnp.abs(x @ lax.complex(p["w"], p["v"])),
        {},
    ),
    "complex": (lambda p, x: jnp.abs(x * 1j @ p["w"]), {}),
    "columns scaled": (lambda p, x: x @ (p["w"] * ROW), {}),
    "columns divided": (lambda p, x: x @ (p["w"] / (2 + ROW)), {}),
    "rows scaled": (lambda p, x: x @ (jnp.arange(8.0)[:, None] * p["w"]), {}),
    "columns masked": (lambda p, x: x @ jnp.where(ROW > 0, p["w"], 0), {}),
    "rows kept": (lambda p, x: x @ jnp.where(EYE[:, :1] > 0, -1.0, p["w"]), {}),
    "first row zero": (lambda p, x: x @ p["w"].at[0].set(0), {}),
    "some columns zero": (lambda p, x: x @ p["w"].at[:, ORDER].set(0), {}),
    "last rows constant": (lambda p, x: x @ p["w"].at[5:].set(EYE[:3]), {}),
    "rows out of bounds": (
        lambda p, x: x @ p["w"].at[ORDER + 4].set(-1.0, mode="drop"),
        {},
    ),
    "a block zero": (lambda p, x: x @ p["w"].at[:2, :3].set(0), {"w": "scatter"}),
    "a row of data": (lambda p, x: x @ p["w"].at[:, 0].set(x[0]), {"w": "scatter"}),
    "a row added": (lambda p, x: x @ p["w"].at[0].add(1), {}),
    "a block less": (lambda p, x: x @ p["w"].at[:2, :3].subtract(0.5), {}),
    "padded": (lambda p, x: x @ jnp.pad(p["w"], ((0, 0), (2, 1))), {}),
    "padded all round": (
        lambda p, x: x[:, :6] @ lax.pad(p["w"], 0.5, [(-1, -1, 0), (1, 0, 1)]),
        {},
    ),
    "joined with constants": (
        lambda p, x: x @ jnp.concatenate([EYE, p["w"], 2 * EYE], 1),
        {},
    ),
    "one of data added": (
        lambda p, x: x @ (p["w"] + x.T @ x @ EYE),
        {},
    ),
    "frozen scales": (lambda p, x: x @ (p["w"] * p["f"]), {}),
    "data in the way": (lambda p, x: x @ (p["w"] * x[:1, :1]), {}),
    "elementwise mask": (lambda p, x: x @ (p["w"] * EYE), {"w": "mul"}),
    "transposed sum": (
        lambda p, x: x @ (p["w"][:, :8] + p["v"][:, :8].T),
        {"v": "add", "w": "add"},
    ),
    "a row of scales": (lambda p, x: x @ (p["w"] * p["g"]), {}),
    "a scale that evolves": (lambda p, x: x @ (p["w"] * p["g"][0]), {}),
    "columns divided by what evolves": (lambda p, x: x @ (p["w"] / p["g"]), {}),
    "rows scaled by what evolves": (lambda p, x: x @ (p["g"][:8, None] * p["w"]), {}),
    "a number over it": (lambda p, x: x @ (1 / p["w"]), {"w": "div"}),
    "spectral norm": (
        lambda p, x: x @ (p["w"] / (9 + ROW[:8] @ (p["w"] @ ROW))),
        {},
    ),
    "scales of a constant that evolve": (
        lambda p, x: x @ (EYE * p["g"]) + x @ (p["g"][:8, None] * EYE),
        {},
    ),
    "scales in a view": (
        lambda p, x: x @ (p["w"].reshape(8, 3, 4) * p["b"][:, :1]).reshape(8, 12),
        {},
    ),
    "a number of data each": (
        lambda p, x: jax.vmap(lambda x: x @ (p["w"] * x.mean()))(x),
        {"w": "mul"},
    ),
    "random mask": (
        lambda p, x: x @ (p["w"] * jax.random.bernoulli(jax.random.key(0), 0.5)),
        {},
    ),
    "dropped connections": (
        lambda p, x: x @ (p["w"] * jax.random.normal(jax.random.key(0), (8, 12))),
        {"w": "mul"},
    ),
    "lower triangle": (lambda p, x: x @ jnp.tril(p["w"]), {"w": "select_n"}),
    "cumulated": (lambda p, x: x @ jnp.cumsum(p["w"], 0), {"w": "cumsum"}),
    "chosen by data": (
        lambda p, x: x @ lax.cond(x.sum() > 0, lambda: p["w"], lambda: p["v"]),
        {"w": "cond", "v": "cond"},
    ),
    "low-rank adapter": (
        lambda p, x: x @ (p["w"] + p["v"][:, :2] @ p["w"][:2]),
        {},
    ),
    "adapter of a constant": (
        lambda p, x: x @ (EYE + 0.5 * (p["v"][:, :2] @ p["w"][:2])),
        {},
    ),
    "adapters of layers": (
        lambda p, x: lax.scan(
            lambda x, layer: (jnp.tanh(x @ (layer[0] + layer[1] @ layer[2])), None),
            x,
            [p["s"], p["s"][:, :, :2], p["s"][:, :2]],
        )[0],
        {},
    ),
    "product of two, by einsum": (
        lambda p, x: x @ jnp.einsum("ik,jk->ij", p["w"], p["v"][:5]),
        {},
    ),
    "cumulated, by einsum": (
        lambda p, x: x @ jnp.einsum("ij,ij->ij", p["w"], jnp.cumsum(p["w"], 0)),
        {"w": "cumsum"},
    ),
    # products of other kinds
    "depthwise convolution": (
        lambda p, x: (
            lax.conv_general_dilated(
                IMAGE, p["w"][:, None, :4], (1,), "SAME", feature_group_count=8
            )
            + x.sum()
        ),
        {},
    ),
    "convolution in groups of images": (
        lambda p, x: (
            lax.conv_general_dilated(
                normal(2, 4, 6), p["w"][:, :4, None], (1,), "SAME", batch_group_count=2
            )
            + x.sum()
        ),
        {"w": "conv_general_dilated"},
    ),
    "experts side by side": (
        lambda p, x: lax.ragged_dot(x, jnp.stack([p["w"], p["v"]]), jnp.array([2, 3])),
        {},
    ),
    "product written as a sum": (
        lambda p, x: jnp.sum(x[:, :, None] * p["w"], axis=1),
        {"w": "mul"},
    ),
    "solved": (lambda p, x: jnp.linalg.solve(p["w"][:, :8], x.T), {"w": "lu"}),
    "solved by iterations": (
        lambda p, x: jax.scipy.sparse.linalg.cg(
            lambda v: p["w"][:, :8] @ v, x[0], maxiter=2
        )[0],
        {"w": "custom_linear_solve"},
    ),
    # not linear
    "rounded": (
        lambda p, x: x @ lax.reduce_precision(p["w"], 5, 7),
        {"w": "reduce_precision"},
    ),
    "fake quantisation": (
        lambda p, x: (
            x @ (p["w"] + lax.stop_gradient(jnp.round(p["w"] * 4) / 4 - p["w"]))
        ),
        {"w": "round"},
    ),
    "softplus": (lambda p, x: x @ jax.nn.softplus(p["w"]), {"w": "max"}),
    "clipped": (lambda p, x: x @ jnp.clip(p["w"], -1, 1), {"w": "max"}),
    "sorted": (lambda p, x: x @ jnp.sort(p["w"]), {"w": "sort"}),
    # full rank by nature
    "positions": (lambda p, x: x + p["t"][:5, :8], {}),
    "positions of data closed over": (lambda p, x: X @ p["v"] + p["t"][:5], {}),
    "biases of heads": (lambda p, x: (x @ p["w"]).reshape(5, 3, 4) + p["b"], {}),
    "scales of heads": (lambda p, x: (x @ p["w"]).reshape(5, 3, 4) * p["b"], {}),
    "mask of logits": (lambda p, x: jnp.where(x > 0, p["t"][:5, :8], -1.0), {}),
    "prompt": (lambda p, x: jnp.concatenate([p["t"], x @ p["v"]]) @ p["v"].T, {}),
    "state at first": (
        lambda p, x: lax.scan(
            lambda h, x: (jnp.tanh(h + x), h @ p["v"]), p["t"][:5, :8], x
        )[1],
        {},
    ),
    "decay": (lambda p, x: jnp.sum(p["w"] ** 2) + jnp.sum((p["v"] - 1) ** 2), {}),
    "never multiplied": (lambda p, x: x[0, 0] * jnp.exp(p["w"]), {}),
}
each_program = pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
LINES = __file__.rsplit("/", 1)[-1]


@each_program
def test_coverage_names_what_takes_a_low_rank(program):
    fn, expected = program
    report = eggroll.coverage(fn, P, X, rules=RULES)
    lost = {x.layout.path: x.layout.lost for x in report.leaves if x.layout.lost}
    assert {path: x.primitive for path, x in lost.items()} == expected
    assert report.demoted == tuple(sorted(expected))
    for place in lost.values():
        assert place.line.startswith(f"{LINES}:")
        assert f"low rank at {place}" in str(report)


def strict(fn):
    es = eggroll.EvolutionStrategy(4, 0.1, strict=True, rules=RULES)
    jax.eval_shape(es.ask(fn), P, jax.random.key(0), X)


@each_program
def test_strict_refuses_exactly_that(program):
    fn, expected = program
    if expected:
        operations = "|".join({*expected.values()})
        message = rf"strict: `({operations})` \({LINES}:\d+\) has no rule for a matrix"
        with pytest.raises(ValueError, match=message):
            strict(fn)
        asked_for = {path: full_rank() for path in P}
        assert eggroll.coverage(fn, P, X, rules=asked_for).demoted == ()
    else:
        strict(fn)


def test_a_warning_tells_of_much_that_is_demoted():
    ask = eggroll.EvolutionStrategy(4, 0.1).ask
    few = lambda p, x: x @ p["w"][:, :8] + x @ (p["g"][:8] * jnp.eye(8))
    many = lambda p, x: x @ p["w"] + x @ jnp.exp(p["v"])
    run = lambda fn, params: jax.eval_shape(ask(fn), params, jax.random.key(0), X)
    run(few, P)
    message = rf"50% of the param.*v lost its low rank at `exp` \({LINES}:\d+\)\. See"
    with pytest.warns(UserWarning, match=message):
        run(many, {"w": P["w"], "v": P["v"]})
    rules = {"v": full_rank()}
    ask = eggroll.EvolutionStrategy(4, 0.1, rules=rules).ask
    run(many, {"w": P["w"], "v": P["v"]})


def test_a_rule_that_asks_for_a_low_rank_is_obeyed_and_the_cost_told():
    rules = {"w": eggroll.low_rank()}
    report = eggroll.coverage(lambda p, x: x @ jnp.exp(p["w"]), P, X, rules=rules)
    assert report.demoted == ()
    assert report.written_out == ("w",)


def test_the_line_is_the_caller_s_where_jax_has_traced_its_own_function_before():
    first = lambda p, x: x @ jnp.sort(p["w"])
    second = lambda p, x: x @ jnp.sort(p["w"])
    places = [eggroll.coverage(fn, P, X)["w"].layout.lost for fn in (first, second)]
    lines = [int(str(place).split(":")[1].rstrip(")")) for place in places]
    assert lines[1] == lines[0] + 1


def test_a_composite_is_entered():
    """(JAX itself cannot map one over members.)"""
    fn = lambda w, x: lax.composite(lambda x, w: x @ w, "a.product")(x, w)
    leaf = eggroll.Perturbed.matrix(P["w"], normal(8, 1), normal(12, 1), 0.1)
    out = eggroll.perturbed(fn, strict=True)(leaf, X)
    np.testing.assert_allclose(out, X @ leaf.materialise(), rtol=1e-5, atol=1e-5)
    assert eggroll.coverage(fn, P["w"], X).demoted == ()


def test_frozen_leaves_are_constants_that_go_into_a_weight():
    fn = PROGRAMS["frozen scales"][0]
    es = eggroll.EvolutionStrategy(4, 0.1, strict=True, rules=RULES)

    def run(key):
        out, generation = es.ask(fn)(P, key, X)
        return out[1], fn(es.member(generation, P, 1), X)

    traced = quick.jit(run).trace(jax.random.key(0))
    assert "f32[4,8,12]" not in str(traced.jaxpr)
    np.testing.assert_allclose(*traced.lower().compile()(jax.random.key(0)), rtol=1e-4)


def test_real_weights_meet_complex_numbers():
    leaf = eggroll.Perturbed.matrix(P["w"], normal(8, 1), normal(12, 1), 0.1)
    out, expected = 1j * X @ leaf, 1j * X @ leaf.materialise()
    np.testing.assert_allclose(out.imag, expected.imag, rtol=1e-5, atol=1e-5)


KEPT = {name: fn for name, (fn, lost) in PROGRAMS.items() if not lost}
del KEPT["frozen scales"]  # `perturbed` alone cannot tell them from data


@pytest.mark.parametrize("fn", KEPT.values(), ids=KEPT)
def test_what_keeps_its_low_rank_agrees(fn):
    agree(fn, P, X, rules=RULES)
