"""Every slice of a stack has noise of its own, however a function takes it apart.

That members agree with their own parameters says nothing of this: slices that share
their noise agree, too. So the noise itself is looked at. For two slices of m × n and of
rank r whose factors are independent, the squared correlation of a draw is 1/(m n) on
average; it is 1/m or 1/n where they share a factor, and 1 where they share both.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from jax import lax
from members import agree

import eggroll


MEMBERS = 512  # the mean of as many squared correlations is within a tenth of its own


class Program(NamedTuple):
    """A function of a stack of matrices.

    Attributes:
        fn: of the stack and an argument.
        shape: of the stack.
        argument: of the function.
        stack: the stack's leading dimensions.
        written_out: the operation that needs it written out, if one does.
    """

    fn: Callable[[jax.Array, jax.Array], jax.Array]
    shape: tuple[int, ...]
    argument: Any
    stack: int = 1
    written_out: str = ""


def layers(weights, h):
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), h, weights)[0]


def loop(matrix, count, h):
    return lax.fori_loop(0, count, lambda i, h: jnp.tanh(h @ matrix(i)), h)


def experts(x):
    return jnp.argmax(x[:, :3], axis=1)


X, ROWS = jnp.linspace(-1, 1, 8), jnp.sin(jnp.arange(40.0)).reshape(5, 8)
ORDER = jnp.array([2, 0, 1])
SQUARE, WIDE, DEEP = (3, 8, 8), (3, 8, 12), (2, 3, 8, 8)
MASK = jnp.array([True, False, True])

PROGRAMS = {
    # strips
    "scan": Program(layers, SQUARE, X),
    "scan, from the last": Program(
        lambda w, x: lax.scan(lambda h, w: (h @ w, 0), x, w, reverse=True)[0], SQUARE, X
    ),
    "scan in a scan": Program(
        lambda w, x: lax.scan(lambda h, w: (layers(w, h), 0), x, w)[0], DEEP, X, 2
    ),
    "scan of groups": Program(
        lambda w, x: layers(w.reshape(3, 8, 8), x), (1, 3, 8, 8), X, 2
    ),
    "scan under checkpoint": Program(
        lambda w, x: lax.scan(
            jax.checkpoint(lambda h, w: (jnp.tanh(h @ w), None)), x, w
        )[0],
        SQUARE,
        X,
    ),
    "vmap": Program(lambda w, x: jax.vmap(jnp.dot)(x[:3], w), WIDE, ROWS),
    "batched product": Program(
        lambda w, x: jnp.einsum("ed,edf->ef", x[:3], w), WIDE, ROWS
    ),
    "vmap of a vmap": Program(
        lambda w, x: jax.vmap(jax.vmap(jnp.dot))(x.reshape(2, 3, 8), w),
        DEEP,
        jnp.sin(jnp.arange(48.0)),
        2,
    ),
    # single positions
    "numbers": Program(lambda w, x: jnp.tanh(x @ w[0]) @ w[1] @ w[2], SQUARE, X),
    "unpacked": Program(lambda w, x: layers(jnp.stack([*w]), x), SQUARE, X),
    "unstack": Program(
        lambda w, x: sum(jnp.tanh(x @ one) for one in jnp.unstack(w)), SQUARE, X
    ),
    "split": Program(
        lambda w, x: sum(jnp.tanh(x @ one[0]) for one in jnp.split(w, 3)), SQUARE, X
    ),
    "fori_loop": Program(lambda w, x: loop(lambda i: w[i], 3, x), SQUARE, X),
    "fori_loop over two": Program(
        lambda w, x: loop(lambda i: w[i // 3, i % 3], 6, x), DEEP, X, 2
    ),
    "dynamic_index_in_dim": Program(
        lambda w, x: loop(lambda i: lax.dynamic_index_in_dim(w, i, 0, False), 3, x),
        SQUARE,
        X,
    ),
    "switch": Program(
        lambda w, x: lax.switch(
            jnp.argmax(x[:2]), [lambda: x @ w[0], lambda: x @ w[1], lambda: x @ w[2]]
        ),
        SQUARE,
        X,
    ),
    # lookups by an array
    "an expert a token": Program(
        lambda w, x: jnp.einsum("td,tdf->tf", x, w[experts(x)]), WIDE, ROWS
    ),
    "an expert a token, vmapped": Program(
        lambda w, x: jax.vmap(lambda x, i: x @ w[i])(x, experts(x)), WIDE, ROWS
    ),
    "two experts a token, mixed": Program(
        lambda w, x: jnp.einsum(
            "tk,td,tkdf->tf", x[:, :2], x, w[lax.top_k(x[:, :3], 2)[1]]
        ),
        WIDE,
        ROWS,
    ),
    "experts with heads": Program(
        lambda w, x: jnp.einsum("td,thdf->thf", x, w[experts(x)]), (3, 2, 8, 6), ROWS
    ),
    "experts of layers": Program(
        lambda w, x: lax.scan(
            lambda h, w: (jnp.einsum("td,tdf->tf", h, w[experts(h)]), 0), x, w
        )[0],
        DEEP,
        ROWS,
        2,
    ),
    "experts of layers, both by an array": Program(
        lambda w, x: jnp.einsum("td,tdf->tf", x, w[experts(x) % 2, experts(x)]),
        DEEP,
        ROWS,
        2,
    ),
    "take, then scan": Program(
        lambda w, x: layers(jnp.take(w, ORDER, axis=0), x), SQUARE, X
    ),
    "permuted by what is read": Program(
        lambda w, x: layers(w[jnp.argsort(x[:3])], x), SQUARE, X
    ),
    "take_along_axis": Program(
        lambda w, x: layers(jnp.take_along_axis(w, ORDER[:, None, None], axis=0), x),
        SQUARE,
        X,
    ),
    "take of one": Program(
        lambda w, x: x @ jnp.take(w, jnp.argmax(x[:3]), axis=0), SQUARE, X
    ),
    "take in the body": Program(
        lambda w, x: lax.scan(
            lambda h, i: (jnp.tanh(h @ jnp.take(w, i, axis=0)), 0), x, ORDER
        )[0],
        SQUARE,
        X,
    ),
    "experts as convolutions": Program(
        lambda w, x: lax.conv(
            x[None, :, :, None], w[jnp.argmax(x[0, :3])], (1, 1), "SAME"
        ),
        (3, 4, 5, 2, 1),
        ROWS,
    ),
    # joined, repeated, turned
    "concatenated": Program(
        lambda w, x: layers(jnp.concatenate([w[1:], w[:1]]), x), SQUARE, X
    ),
    "rolled": Program(lambda w, x: layers(jnp.roll(w, 1, axis=0), x), SQUARE, X),
    "reversed": Program(lambda w, x: layers(w[::-1], x), SQUARE, X),
    "tiled": Program(lambda w, x: layers(jnp.tile(w, (2, 1, 1)), x), SQUARE, X),
    "repeated": Program(lambda w, x: layers(jnp.repeat(w, 2, axis=0), x), SQUARE, X),
    "broadcast": Program(
        lambda w, x: lax.scan(
            lambda h, w: (layers(w, h), 0), x, jnp.broadcast_to(w, (2, *w.shape))
        )[0],
        SQUARE,
        X,
    ),
    "halves": Program(lambda w, x: layers(w[2:], layers(w[:2], x)), (4, 8, 8), X),
    "every other": Program(
        lambda w, x: layers(w[1::2], layers(w[::2], x)), (4, 8, 8), X
    ),
    "transposed": Program(lambda w, x: layers(jnp.swapaxes(w, 1, 2), x), SQUARE, X),
    "masked": Program(
        lambda w, x: layers(jnp.where(MASK[:, None, None], w, 0), x), SQUARE, X
    ),
    "a layer replaced": Program(
        lambda w, x: layers(jnp.tile(w, (2, 1, 1)).at[1].set(jnp.eye(8)), x), SQUARE, X
    ),
    "scaled layer by layer": Program(
        lambda w, x: layers(w * jnp.arange(1.0, 4.0)[:, None, None], x), SQUARE, X
    ),
    "padded with layers": Program(
        lambda w, x: layers(jnp.pad(w, ((1, 0), (0, 0), (0, 0))), x), SQUARE, X
    ),
    "joined with a constant layer": Program(
        lambda w, x: layers(jnp.concatenate([w, jnp.eye(8)[None]]), x), SQUARE, X
    ),
    "added to its reverse": Program(lambda w, x: layers(w + w[::-1], x), SQUARE, X),
    # what has no cheap form is written out, with noise as independent
    "an expert a token, elementwise": Program(
        lambda w, x: jnp.sum(x[:, :, None] * w[experts(x)], axis=1),
        WIDE,
        ROWS,
        written_out="mul",
    ),
    "numbered, elementwise": Program(
        lambda w, x: loop(lambda i: 2 * jnp.eye(8) * w[i], 3, x),
        SQUARE,
        X,
        written_out="mul",
    ),
    "a stack kept as a matrix": Program(
        lambda w, x: jnp.einsum("td,tdf->tf", x, w.reshape(3, 8, 12)[experts(x)]),
        (24, 12),
        ROWS,
        written_out="gather",
    ),
    "a stack kept as a matrix, numbered": Program(
        lambda w, x: loop(lambda i: w.reshape(3, 8, 8)[i], 3, x),
        (24, 8),
        X,
        written_out="dynamic_slice",
    ),
}
each_program = pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)


def slices(program: Program, noise: Any) -> np.ndarray:
    """The noise of many members: (members, slices, elements)."""
    weight = jnp.zeros(program.shape)
    es = eggroll.EvolutionStrategy(MEMBERS, 0.1, noise=noise, antithetic=False)

    def members(key: jax.Array) -> jax.Array:
        generation = es.ask(program.fn)(weight, key, program.argument)[1]
        return jax.vmap(lambda i: es.member(generation, weight, i))(jnp.arange(MEMBERS))

    drawn = np.asarray(quick.jit(members)(jax.random.key(0)), np.float64)
    count = np.prod(program.shape[: program.stack])
    if len(program.shape) == 2:  # a stack kept as a matrix
        count = 3
    return drawn.reshape(MEMBERS, count, -1)


@pytest.mark.filterwarnings("ignore:.*lost its low rank")
@each_program
def test_slices_are_independent(program):
    drawn = slices(program, "gaussian")
    drawn /= np.linalg.norm(drawn, axis=-1, keepdims=True)
    elements = drawn.shape[-1]
    for a, b in itertools.combinations(range(drawn.shape[1]), 2):
        squares = np.sum(drawn[:, a] * drawn[:, b], axis=1) ** 2
        error = np.std(squares) / np.sqrt(MEMBERS)
        assert abs(np.mean(squares) - 1 / elements) < 5 * error, (a, b)


@each_program
def test_members_agree_and_what_is_written_out_is_told(program):
    weight = jnp.asarray(np.random.default_rng(0).normal(size=program.shape) / 4)
    paths = ("params",) if program.written_out else ()
    report = agree(
        program.fn, weight.astype(jnp.float32), program.argument, written_out=paths
    )
    assert program.written_out in str(report)


@each_program
def test_strict_refuses_what_is_written_out(program):
    es = eggroll.EvolutionStrategy(4, 0.1, strict=True)
    ask = lambda: jax.eval_shape(
        es.ask(program.fn),
        jnp.zeros(program.shape),
        jax.random.key(0),
        program.argument,
    )
    if program.written_out:
        with pytest.raises(ValueError, match=rf"strict: `{program.written_out}`"):
            ask()
    else:
        ask()
