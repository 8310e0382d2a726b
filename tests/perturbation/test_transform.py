"""A function cannot tell perturbed arrays from the arrays they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from members import agree

import eggroll


def normal(*shape: int, dtype=np.float32) -> jax.Array:
    """An array that depends on its shape alone."""
    return jnp.asarray(np.random.default_rng(shape).normal(size=shape), dtype)


W, X = normal(4, 3), normal(5, 4)
SQUARE, STACK, VECTOR = normal(4, 4), normal(3, 4, 4), normal(4)
PAIR = {"a": normal(4, 3), "b": normal(6, 3)}


@jax.custom_jvp
def with_jvp(w, x):
    return jnp.tanh(x @ w)


with_jvp.defjvp(lambda primals, tangents: (with_jvp(*primals), with_jvp(*primals)))


@jax.custom_vjp
def with_vjp(w, x):
    return jnp.tanh(x @ w)


with_vjp.defvjp(
    lambda w, x: (with_vjp(w, x), (w, x)),
    lambda saved, g: (saved[1].T @ g, g @ saved[0].T),
)


def by_rows(w, x):
    specs = (PartitionSpec("model"), PartitionSpec(None, "model"))
    part = lambda w, x: lax.psum(jnp.tanh(x) @ w, "model")
    return sharded(part, specs, PartitionSpec())(w, x)


def by_columns(w, x):
    specs = (PartitionSpec(None, "model"), PartitionSpec())
    part = lambda w, x: jnp.tanh(x @ w)
    return sharded(part, specs, PartitionSpec(None, "model"))(w, x)


def sharded(part, in_specs, out_specs):
    mesh = Mesh(np.array(jax.devices()[:2]), ("model",))
    return jax.shard_map(part, mesh=mesh, in_specs=in_specs, out_specs=out_specs)


def by_choice(w, x):
    group = jnp.argmax(x[:, :3], axis=1)
    order = jnp.argsort(group)
    sizes = jnp.bincount(group, length=3)
    return lax.ragged_dot(x[order], w, sizes)[jnp.argsort(order)]


def conv(x, w, **kwargs):
    numbers = ("NWC", "WIO", "NWC")
    return lax.conv_general_dilated(
        x, w, (1,), "SAME", dimension_numbers=numbers, **kwargs
    )


IMAGE, KERNEL = normal(2, 8, 4), normal(3, 4, 5)

# name: (function, parameters, arguments); no low-rank leaf may be written out
CHEAP = {
    "matmul, weight on the right": (lambda w, x: x @ w, W, X),
    "matmul, weight on the left": (lambda w, x: w @ x, W, normal(3, 5)),
    "vector by matrix": (lambda w, x: x @ w, W, VECTOR),
    "several contracted dimensions": (
        lambda w, x: jnp.einsum("bij,ijk->bk", x, w),
        normal(2, 4, 3),
        normal(5, 2, 4),
    ),
    "batch dimensions": (
        lambda w, x: jnp.einsum("nbi,nio->nbo", x, w),
        normal(2, 4, 3),
        normal(2, 5, 4),
    ),
    "contracted in four ways": (
        lambda w, x, y: (
            jnp.einsum("bi,ijk->bjk", x, w),
            jnp.einsum("bj,ijk->bik", x, w),
            jnp.einsum("bij,ijk->bk", y, w),
            jnp.einsum("bik,ijk->bj", y, w),
        ),
        normal(4, 4, 4),
        X,
        normal(5, 4, 4),
    ),
    "precision for either side": (
        lambda w, x: lax.dot(w.T, x, precision=("highest", "default")),
        W,
        X.T,
    ),
    "integer input": (lambda w, x: x @ w, W, jnp.arange(20).reshape(5, 4)),
    "multiplied by a number": (lambda w, x, s: x @ (w * s), W, X, jnp.float32(3)),
    "divided by a number": (lambda w, x, s: x @ (w / s), W, X, jnp.float32(3)),
    "negated": (lambda w, x: x @ -w, W, X),
    "conv": (lambda w, x: conv(x, w), KERNEL, IMAGE),
    "conv, transposed": (
        lambda w, x: lax.conv_transpose(
            x, w, (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        ),
        KERNEL,
        IMAGE,
    ),
    "conv, kernel turned round": (
        lambda w, x: lax.conv_transpose(
            x,
            w,
            (2,),
            "SAME",
            dimension_numbers=("NWC", "WIO", "NWC"),
            transpose_kernel=True,
        ),
        normal(3, 5, 4),
        IMAGE,
    ),
    "conv, grouped": (
        lambda w, x: conv(x, w, feature_group_count=2),
        normal(3, 2, 6),
        IMAGE,
    ),
    "conv, depthwise": (
        lambda w, x: conv(x, w, feature_group_count=4),
        normal(3, 1, 12),
        IMAGE,
    ),
    "conv, one kernel an image": (
        lambda w, x: jax.vmap(conv)(x[:, None], w),
        normal(2, 3, 4, 5),
        IMAGE,
    ),
    "stack of conv layers": (
        lambda w, x: lax.scan(lambda h, w: (conv(h, w), 0), x, w)[0],
        normal(2, 3, 4, 4),
        IMAGE,
    ),
    "lookup": (lambda w, i: w[i], W, jnp.array([[1, 0], [3, 3]])),
    "lookup, second dimension": (lambda w, i: w[:, i], W, jnp.array([1, 0])),
    "lookup, elements": (lambda w, i: w[i, i], W, jnp.array([1, 0])),
    "lookup, one row": (lambda w, i: w[i] * 2, W, jnp.array(2)),
    "lookup beyond the end, NaN": (
        lambda w, i: jnp.take(w, i, axis=0),
        W,
        jnp.array([0, 9, -9, -1, 2]),
    ),
    "lookup of one row before the first": (lambda w, i: w[i] * 2, W, jnp.array(-5)),
    "lookup beyond the end, zeros": (
        lambda w, i: jnp.take(w, i, axis=0, mode="fill", fill_value=0),
        W,
        jnp.array([0, 9]),
    ),
    "lookup beyond the end of one row": (
        lambda w, i: jnp.take(w, i, axis=0, mode="fill", fill_value=0),
        normal(1, 3),
        jnp.array([0, 9]),
    ),
    "lookup beyond the end, clipped": (
        lambda w, i: jnp.take(w, i, axis=0, mode="clip"),
        W,
        jnp.array([0, 9]),
    ),
    "lookup in one table a row": (
        lambda w, i: jax.vmap(lambda w, i: w[i])(w, i),
        normal(2, 5, 3),
        jnp.array([[0, 4, 1], [1, 1, 2]]),
    ),
    "lookup, then the same weights as a matrix": (
        lambda w, i: w[i] @ w.T,
        W,
        jnp.array([1, 0]),
    ),
    "lookup of one row, then a matrix on the left": (
        lambda p, i: p["w"] @ p["table"][i],
        {"table": W, "w": normal(5, 3)},
        jnp.array(2),
    ),
    "slice": (lambda w, x: x @ w[:, ::2], W, X),
    "split": (lambda w, x: [x @ part for part in jnp.split(w, [2], 1)], W, X),
    "layers by number": (lambda w, x: jnp.tanh(x @ w[0]) @ w[2], STACK, VECTOR),
    "layers by number in a loop": (
        lambda w, x: lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ w[i]), x),
        STACK,
        VECTOR,
    ),
    "joined along columns": (
        lambda p, x: x @ jnp.concatenate([p["a"].T, p["b"].T], 1),
        PAIR,
        normal(5, 3),
    ),
    "joined along rows": (
        lambda p, x: x @ jnp.concatenate([p["a"], p["b"]], 0),
        PAIR,
        normal(5, 10),
    ),
    "stacked and scanned": (
        lambda p, x: lax.scan(
            lambda h, w: (jnp.tanh(h @ w), 0), x, jnp.stack([p["a"], p["b"]])
        )[0],
        {"a": normal(6, 6), "b": normal(6, 6) + 1},
        normal(6),
    ),
    "repeated and joined": (
        lambda p, x: x @ jnp.concatenate([jnp.tile(p["a"], (2, 1, 1)), p["b"][None]]),
        {"a": W, "b": W + 1},
        X,
    ),
    "tiled": (lambda w, x: x @ jnp.tile(w, (2, 1)), W, normal(5, 8)),
    "repeated": (lambda w, x: x @ jnp.repeat(w, 2, axis=1), W, X),
    "stacked in the middle": (
        lambda p, x: jnp.einsum("ij,jkl->ikl", x, jnp.stack([p["a"], p["b"]], 1)),
        {"a": W, "b": W + 1},
        X,
    ),
    "unstacked": (lambda w, x: [x @ part for part in jnp.unstack(w)], STACK, X),
    "flipped": (lambda w, x: x @ w[::-1], W, X),
    "reshaped": (lambda w, x: x @ w.reshape(4, 2, 3).reshape(4, 6), normal(4, 6), X),
    "broadcast": (lambda w, x: x @ jnp.broadcast_to(w, (2, 4, 3)), W, normal(2, 5, 4)),
    "product of itself": (lambda w, x: (x @ w) @ (w.T @ w), W, X),
    "product of two": (lambda p, x: x @ (p["a"] @ p["b"].T), PAIR, X),
    "products of two, side by side": (
        lambda w, x: jnp.einsum("lbi,lij->lbj", x, jnp.einsum("lij,lkj->lik", w, w)),
        normal(3, 4, 6),
        normal(3, 5, 4),
    ),
    "rows by group": (
        lambda w, x: lax.ragged_dot(x, w, jnp.array([2, 0, 2])),
        STACK,
        X,
    ),
    "rows by the group that they choose": (by_choice, STACK, X),
    "rows by group, of one matrix": (
        lambda w, x: lax.ragged_dot(x, jnp.stack([w, 2 * w]), jnp.array([2, 3])),
        W,
        X,
    ),
    "scan over layers": (
        lambda w, x: lax.scan(lambda h, w: (jnp.tanh(h @ w), h), x, w),
        STACK,
        VECTOR,
    ),
    "scan over layers, backwards, unrolled": (
        lambda w, x: lax.scan(
            lambda h, w: (jnp.tanh(h @ w), h), x, w, reverse=True, unroll=2
        ),
        STACK,
        VECTOR,
    ),
    "scan over repetitions of one layer": (
        lambda w, x: lax.scan(
            lambda h, w: (jnp.tanh(h @ w), h), x, jnp.broadcast_to(w, (3, 4, 4))
        ),
        SQUARE,
        VECTOR,
    ),
    "scan with the weight as a constant": (
        lambda w, xs: lax.scan(lambda h, x: (jnp.tanh(h @ w + x), h), xs[0], xs),
        SQUARE,
        X,
    ),
    "scan with the weight in the carry": (
        lambda w, xs: lax.scan(
            lambda c, x: ((c[0], jnp.tanh(c[1] @ c[0] + x)), 0), (w, xs[0]), xs
        )[0][1],
        SQUARE,
        X,
    ),
    "while with the weight in the carry": (
        lambda w, x: lax.while_loop(
            lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1], c[2] @ c[1]), (0, w, x)
        )[2],
        SQUARE,
        VECTOR,
    ),
    "while until the weight says so": (
        lambda w, x: lax.while_loop(
            lambda x: jnp.sum(jnp.abs(x @ w)) > 0.5, lambda x: x / 2, x
        ),
        SQUARE,
        VECTOR,
    ),
    "cond": (
        lambda w, x: lax.cond(x[0] > 0, lambda: x @ w, lambda: x @ w.T),
        SQUARE,
        VECTOR,
    ),
    "checkpoint": (jax.checkpoint(lambda w, x: jnp.tanh(x @ w)), W, X),
    "custom_jvp": (with_jvp, W, X),
    "custom_vjp": (with_vjp, W, X),
    "shard_map, by rows": (by_rows, W, X),
    "shard_map, by columns": (by_columns, normal(4, 6), X),
    "gradient of the input": (
        lambda w, x: jax.grad(lambda x: jnp.sum(with_vjp(w, x)))(x),
        W,
        X,
    ),
    "barrier": (lambda w, x: x @ lax.optimization_barrier(w), W, X),
    "elementwise": (lambda w, x: jnp.sort(x * w + jnp.abs(w)), VECTOR, X),
    "result itself": (lambda w: w, VECTOR),
    "number": (lambda w: w * 2, jnp.float32(1)),
    "number that scales": (lambda w, x: w * x, jnp.float32(1), X),
    "integers left alone": (
        lambda p, x: x @ p["w"] + p["shift"],
        {"w": W, "shift": jnp.arange(3)},
        X,
    ),
    "leaf of size zero": (
        lambda p, x: x @ p["w"] + jnp.sum(p["none"].reshape(-1)),
        {"w": W, "none": jnp.zeros((0, 3))},
        X,
    ),
    "branches that are None": (
        lambda p, x, extra: x @ p["w"],
        {"w": W, "b": None},
        X,
        None,
    ),
    "NumPy arrays": (
        lambda p, x: x @ p["w"] + p["b"],
        {"w": np.ones((4, 3), np.float32), "b": np.arange(3)},
        np.ones((5, 4), np.float32),
    ),
    "random key among the parameters": (
        lambda p, x: x @ p["w"] + jax.random.normal(p["key"], (3,)),
        {"w": W, "key": jax.random.key(0)},
        X,
    ),
    "random key among the arguments": (
        lambda w, key: jax.random.normal(key, (5, 4)) @ w,
        W,
        jax.random.key(0),
    ),
}


@pytest.mark.parametrize("case", CHEAP.values(), ids=CHEAP.keys())
def test_a_function_cannot_tell(case):
    agree(*case)


BF16 = {
    "matmul": lambda w, x: x @ w,
    "matmul summed in float32": lambda w, x: lax.dot(
        x, w, preferred_element_type=jnp.float32
    ),
    "weight widened": lambda w, x: x.astype(jnp.float32) @ w.astype(jnp.float32),
    "scaled": lambda w, x: x @ (w / 3),
    "conv": lambda w, x: conv(x[None], w[None]),
    "lookup": lambda w, x: w[jnp.array([1, 0])],
}


@pytest.mark.parametrize("fn", BF16.values(), ids=BF16.keys())
def test_bfloat16_weights_agree_to_their_own_rounding(fn):
    agree(fn, W.astype(jnp.bfloat16), X.astype(jnp.bfloat16), tolerance=2**-7)


def test_a_float32_weight_narrowed_by_the_function_agrees_to_the_narrow_rounding():
    narrow = lambda w, x: x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)
    agree(narrow, W, X, tolerance=2**-7)


# What needs a low-rank leaf written out, and the operation that does.
DEAR = {
    "weight norm": (lambda w, x: x @ (w / jnp.linalg.norm(w, axis=0)), "mul"),
    "product that is not linear": (lambda w, x: x @ jnp.exp(w @ w.T), "exp"),
    "used as a matrix and elementwise": (lambda w, x: (x @ w, jnp.abs(w)), "abs"),
    "joined with activations": (
        lambda w, x: (x @ w, x @ jnp.concatenate([w, (x @ w)[:4, :1]], 1)),
        "concatenate",
    ),
    "changed by a loop": (
        lambda w, x: (x @ w, lax.fori_loop(0, 2, lambda _, w: w / 2, w)),
        "carry",
    ),
    "given back": (lambda w, x: (x @ w, w), "result"),
}


@pytest.mark.parametrize(("fn", "operation"), DEAR.values(), ids=DEAR.keys())
def test_what_must_be_written_out_is_and_is_reported(fn, operation):
    report = agree(fn, W, X, written_out=("params",))
    assert report["params"].materialised == (operation,)


@pytest.mark.parametrize(("fn", "operation"), DEAR.values(), ids=DEAR.keys())
def test_strict_refuses_to_write_a_low_rank_leaf_out(fn, operation):
    es = eggroll.EvolutionStrategy(population=4, sigma=0.1, strict=True)
    message = rf"`{operation}` needs the low-rank leaf w .* written out"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(es.ask(lambda p: fn(p["w"], X)), {"w": W}, jax.random.key(0))


def test_strict_lets_full_rank_and_frozen_leaves_be_written_out():
    rules = {"w": eggroll.full_rank(), "v": eggroll.frozen}
    es = eggroll.EvolutionStrategy(population=4, sigma=0.1, strict=True, rules=rules)
    fn = lambda p: X @ p["w"] + jnp.abs(p["w"]).sum() + jnp.abs(p["v"]).sum()
    jax.eval_shape(es.ask(fn), {"w": W, "v": W}, jax.random.key(0))


def test_a_perturbed_argument_may_be_anywhere_among_the_arguments():
    leaf = eggroll.Perturbed.matrix(W, normal(4, 2), normal(3, 2), 0.1)
    out = eggroll.perturbed(lambda x, p: x @ p["w"])(X, {"w": leaf})
    np.testing.assert_allclose(out, X @ leaf.materialise(), rtol=1e-5)


def test_a_function_of_plain_arrays_is_left_as_it_is():
    out = eggroll.perturbed(lambda x, name: x @ W)(X, "a word")
    np.testing.assert_array_equal(out, X @ W)


@pytest.mark.parametrize("loop", ["scan", "while"])
def test_a_loop_reads_factors_in_eight_bits(loop):
    """Else every turn reads four times the bytes: compilers widen before the loop."""
    size, members = 16, 64

    def apply(w, x):
        step = lambda x: jnp.tanh(x @ w)
        if loop == "scan":
            return lax.scan(lambda x, _: (step(x), None), x, length=3)[0]
        return lax.while_loop(lambda x: jnp.sum(x) > 0, step, x)

    es = eggroll.EvolutionStrategy(population=members, sigma=0.1)
    ask = jax.jit(lambda *args: es.ask(apply)(*args)[0])
    text = ask.lower(normal(size, size), jax.random.key(0), normal(size)).compile()
    loops = [line for line in text.as_text().splitlines() if " while(" in line]
    assert any(line.count(f"s8[{members},{size}]") == 2 for line in loops)
