"""Unmodified models of Flax NNX, Flax Linen and Equinox, perturbed.

Each agrees with the model of the written-out parameters, and no low-rank leaf is
written out anywhere.
"""

import itertools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import optimistix
import pytest
from flax import linen, nnx
from jax import lax
from members import agree

import eggroll


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(shape).normal(size=shape), jnp.float32)


def filled(abstract):
    """Arrays of random numbers in the place of abstract ones: initialising compiles."""
    is_abstract = lambda x: isinstance(x, jax.ShapeDtypeStruct)

    def fill(x):
        if not is_abstract(x):
            return x
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return KEY if is_key else normal(*x.shape).astype(x.dtype)

    return jax.tree.map(fill, abstract, is_leaf=is_abstract)


KEY = jax.random.key(0)
TOKENS, ROWS, SEQUENCE = jnp.array([1, 2, 5]), normal(3, 4), normal(2, 5, 4)
WIDE, IMAGES = normal(3, 8), normal(1, 6, 6, 3)


class Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.up = nnx.Linear(4, 6, rngs=rngs)
        self.down = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x):
        return x + self.down(jax.nn.relu(self.up(self.norm(x))))


class Stack(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make(rngs):
            return Block(rngs)

        self.blocks = make(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def forward(block, x):
            return block(x)

        return forward(self.blocks, x)


# name: (constructor, input, call)
NNX = {
    "Linear": (lambda r: nnx.Linear(4, 6, rngs=r), ROWS),
    "LinearGeneral": (
        lambda r: nnx.LinearGeneral((4, 3), (2, 5), axis=(-2, -1), rngs=r),
        normal(7, 4, 3),
    ),
    "Einsum": (lambda r: nnx.Einsum("ab,bcd->acd", (4, 2, 3), rngs=r), ROWS),
    "Embed": (lambda r: nnx.Embed(11, 4, rngs=r), TOKENS),
    "Embed, one token": (lambda r: nnx.Embed(11, 4, rngs=r), jnp.array(7)),
    "Embed, tied": (
        lambda r: nnx.Embed(11, 4, rngs=r),
        TOKENS,
        lambda model, x: model.attend(model(x)),
    ),
    "Embed, tied, one token": (
        lambda r: nnx.Embed(11, 4, rngs=r),
        jnp.array(7),
        lambda model, x: model.attend(model(x)),
    ),
    "Conv": (lambda r: nnx.Conv(3, 4, (3, 3), rngs=r), IMAGES),
    "Conv, strides": (
        lambda r: nnx.Conv(3, 4, (3,), strides=2, padding="VALID", rngs=r),
        normal(8, 3),
    ),
    "ConvTranspose": (lambda r: nnx.ConvTranspose(3, 4, (3, 3), rngs=r), IMAGES),
    "LayerNorm": (lambda r: nnx.LayerNorm(4, rngs=r), ROWS),
    "GroupNorm": (lambda r: nnx.GroupNorm(4, num_groups=2, rngs=r), ROWS),
    "MultiHeadAttention": (
        lambda r: nnx.MultiHeadAttention(2, 8, decode=False, rngs=r),
        WIDE,
    ),
    "GRUCell": (lambda r: nnx.RNN(nnx.GRUCell(4, 6, rngs=r)), SEQUENCE),
    "LSTMCell": (lambda r: nnx.RNN(nnx.LSTMCell(4, 6, rngs=r)), SEQUENCE),
    "stack under nnx.scan": (Stack, ROWS),
}


@pytest.mark.parametrize("case", NNX.values(), ids=NNX.keys())
def test_flax_nnx(case):
    make, x, *call = case
    abstract = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    graph, params, rest = nnx.split(abstract, nnx.Param, ...)
    params, rest = filled(params), filled(rest)

    def apply(params, x):
        model = nnx.merge(graph, params, rest, copy=True)
        return call[0](model, x) if call else model(x)

    agree(apply, params, x)


class Residual(linen.Module):
    @linen.compact
    def __call__(self, x, _):
        return x + linen.Dense(4)(jax.nn.relu(linen.Dense(6)(x))), None


class LinenStack(linen.Module):
    is_checkpointed: bool = False

    @linen.compact
    def __call__(self, x):
        block = linen.remat(Residual) if self.is_checkpointed else Residual
        over = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        return linen.scan(block, **over, length=3)()(x, None)[0]


LINEN = {
    "Dense": (lambda: linen.Dense(5), ROWS),
    "DenseGeneral": (
        lambda: linen.DenseGeneral((2, 5), axis=(-2, -1)),
        normal(7, 4, 3),
    ),
    "Conv": (lambda: linen.Conv(4, (3, 3)), IMAGES),
    "RNN of GRUCell": (lambda: linen.RNN(linen.GRUCell(6)), SEQUENCE),
    "RNN of OptimizedLSTMCell": (
        lambda: linen.RNN(linen.OptimizedLSTMCell(6)),
        SEQUENCE,
    ),
    "stack under nn.scan": (LinenStack, ROWS),
    "stack under nn.scan and nn.remat": (lambda: LinenStack(True), ROWS),
    "MultiHeadDotProductAttention": (
        lambda: linen.MultiHeadDotProductAttention(2),
        WIDE,
    ),
}


@pytest.mark.parametrize("case", LINEN.values(), ids=LINEN.keys())
def test_flax_linen(case):
    make, x = case
    model = make()
    agree(model.apply, filled(jax.eval_shape(model.init, KEY, x)), x)


EQUINOX = {
    "Linear": (lambda: eqx.nn.Linear(4, 6, key=KEY), normal(4)),
    "MLP": (lambda: eqx.nn.MLP(4, 5, 6, 2, key=KEY), normal(4)),
    "MLP of a batch": (
        lambda: eqx.nn.MLP(4, 5, 6, 2, key=KEY),
        ROWS,
        lambda model, x: jax.vmap(model)(x),
    ),
    "Conv2d": (lambda: eqx.nn.Conv2d(3, 4, 3, key=KEY), normal(3, 6, 6)),
    "GRUCell": (
        lambda: eqx.nn.GRUCell(4, 6, key=KEY),
        normal(5, 4),
        lambda cell, xs: lax.scan(lambda h, x: (cell(x, h), h), jnp.ones(6), xs),
    ),
    "Embedding": (lambda: eqx.nn.Embedding(11, 4, key=KEY), jnp.array(3)),
    "Embedding of a batch": (
        lambda: eqx.nn.Embedding(11, 4, key=KEY),
        TOKENS,
        lambda model, x: jax.vmap(model)(x),
    ),
    "Embedding, then Linear": (
        lambda: (eqx.nn.Embedding(11, 4, key=KEY), eqx.nn.Linear(4, 6, key=KEY)),
        jnp.array(3),
        lambda model, x: model[1](model[0](x)),
    ),
    "MultiheadAttention": (
        lambda: eqx.nn.MultiheadAttention(2, 8, key=KEY),
        WIDE,
        lambda model, x: model(x, x, x),
    ),
}


@pytest.mark.parametrize("case", EQUINOX.values(), ids=EQUINOX.keys())
def test_equinox(case):
    make, x, *call = case
    model = filled(eqx.filter_eval_shape(make))
    agree(call[0] if call else lambda model, x: model(x), model, x)


def test_layers_of_a_scanned_stack_are_perturbed_independently():
    graph, params = nnx.split(nnx.eval_shape(lambda: Stack(nnx.Rngs(0))))
    apply = lambda params, x: nnx.merge(graph, params)(x)
    layout = eggroll.coverage(apply, params, ROWS)["blocks/up/kernel/value"].layout
    assert (layout.batch, layout.rows, layout.cols) == ((0,), (1,), (2,))


def test_compiled_population_multiplies_by_each_weight_once():
    members, sizes = 6, (8, 16, 32, 4)
    layers = list(itertools.pairwise(sizes))
    make = lambda i, o: nnx.Linear(i, o, use_bias=False, rngs=nnx.Rngs(0))
    model = nnx.eval_shape(lambda: nnx.Sequential(*(make(*x) for x in layers)))
    graph, params = nnx.split(model)
    apply = lambda params, x: nnx.merge(graph, params)(x)
    es = eggroll.EvolutionStrategy(population=members, sigma=0.1, noise="gaussian")
    ask = jax.jit(lambda *args: es.ask(apply, in_axes=0)(*args)[0])
    hlo = ask.lower(params, KEY, normal(members, 8)).compile().as_text() or ""

    shapes = dict(re.findall(r"(%[\w.-]+) = f32\[([\d,]*)\]", hlo))
    dots = re.findall(r" dot\((?:f32\S* )?(%[\w.-]+), (?:f32\S* )?(%[\w.-]+)\)", hlo)
    met = [tuple(sorted((shapes[a], shapes[b]))) for a, b in dots]
    for rows, cols in layers:
        weight = f"{rows},{cols}"
        assert sum(weight in pair for pair in met) == 1, met
        assert f"f32[{members},{weight}]" not in hlo
    assert not re.search(r"dot\(.*_batch_dims=\{\d", hlo)


# --- Solvers that keep a function, with its constants, in an equation


def fixed_point(w, x):
    gap = lambda y, _: y - jnp.tanh(0.1 * w @ y) - x
    newton = optimistix.Newton(rtol=1e-6, atol=1e-6)
    start = jnp.zeros(len(x))
    return optimistix.root_find(gap, newton, start, throw=False, max_steps=8).value


def solved(w, x):
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    operator = lineax.FunctionLinearOperator(lambda v: 0.1 * w @ v + v, shape)
    gmres = lineax.GMRES(rtol=1e-6, atol=1e-6)
    return lineax.linear_solve(operator, x, gmres, throw=False).value


@pytest.mark.parametrize("solve", [fixed_point, solved])
def test_implicit_solvers_agree_and_the_memory_they_take_is_found(solve):
    report = agree(
        solve, normal(4, 4), normal(4), written_out=("params",), tolerance=1e-4
    )
    assert "linear_solve" in str(report)
    assert report.bytes_per_member > 4 * 4 * 4
