"""Weights of eight bits: a quarter of float32's memory, for any model of this package.

A matrix W is kept as whole numbers q and a step s for each of its outputs,

    W ≈ q s,      s = max |W| / 127 over the inputs,      x W ≈ (x q) s,

so that steps multiply what comes out, and q is converted where it is used: one layer of
a scanned stack at a time, and a head in blocks of its outputs. No float copy of all of
them is ever made. (With `unrolled=True` one is: compilers hoist what they can out of a
loop over tokens.)

An embedding has a step a token, which serves the rows that are looked up as well as the
head where it is tied.
"""

import functools
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Num


Params = dict[str, Any]
Weight = Any  # a matrix, or {"int8": q, "scale": s}

LIMIT = 127  # of the whole numbers, on both sides
BLOCK = 2**22  # numbers of a head that are converted at once
# What is quantised, by name: thin matrices, norms and biases are not worth it.
TABLES = ("embed",)
MATRICES = ("q", "k", "v", "o", "gate", "up", "down", "r", "expand", "contract", "head")


def quantise(
    params: Params,
    names: Collection[str] = (*TABLES, *MATRICES),
    *,
    largest: int = LIMIT,
) -> dict[str, Any]:
    """Replaces matrices by {"int8": whole numbers, "scale": steps}.

    A channel of zeros, which says nothing of its range, gets steps for weights of
    standard deviation inputs^-½. Leaf by leaf: beside `params` there is never more than
    the result.

    Args:
        params: of a model; abstract ones under `jax.eval_shape`.
        names: which leaves, by the last part of their path; those that are quantised
            already stay as they are.
        largest: what the largest weight of each channel becomes. Weights that evolve
            cannot grow beyond 127 steps: less leaves them room, for a coarser step.

    Returns:
        Parameters that the same model takes. Steps have the matrix's type, and its
        dimensions, of size 1 along the inputs.
    """

    def leaf(path: Any, weight: Any) -> Any:
        name = path[-1].key
        if is_quantised(weight) or name not in names:
            return weight
        return _quantised(weight, largest, axis=-1 if name in TABLES else -2)

    return jax.tree_util.tree_map_with_path(leaf, params, is_leaf=is_quantised)


def dequantise(params: Params) -> dict[str, Any]:
    """Returns parameters whose matrices are all floats: `q s`."""

    def leaf(weight: Weight) -> Any:
        if not is_quantised(weight):
            return weight
        return weight["int8"].astype(weight["scale"].dtype) * weight["scale"]

    return jax.tree.map(leaf, params, is_leaf=is_quantised)


def units(params: Params) -> dict[str, Any]:
    """Returns what one of each leaf is worth: of whole numbers their steps, else 1."""

    def leaf(weight: Weight) -> Any:
        if not is_quantised(weight):
            return 1.0
        return {"int8": weight["scale"], "scale": 1.0}

    return jax.tree.map(leaf, params, is_leaf=is_quantised)


def typical_units(params: Params) -> dict[str, float]:
    """Returns the root mean square of the steps of each leaf of whole numbers.

    Args:
        params: of which some are quantised.

    Returns:
        Numbers by path, such as "layers/q/int8".
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_quantised)
    return {
        f"{jax.tree_util.keystr(path, simple=True, separator='/')}/int8": float(
            jnp.sqrt(jnp.mean(jnp.square(weight["scale"].astype(jnp.float32))))
        )
        for path, weight in flat
        if is_quantised(weight)
    }


def is_quantised(weight: Any) -> bool:
    """Whether a node of a model's parameters is a matrix of eight bits."""
    return isinstance(weight, dict) and weight.keys() == {"int8", "scale"}


def matmul(x: Float[Array, "*rows n"], weight: Weight) -> Float[Array, "*rows m"]:
    """Returns `x @ weight`, in the type of x, for either kind of weight."""
    if not is_quantised(weight):
        return x @ weight
    return _product(x, weight["int8"], weight["scale"]).astype(x.dtype)


def rows(table: Weight, index: Int[Array, "*rows"]) -> Float[Array, "*rows n"]:
    """Returns rows of an embedding, of either kind; indices are clipped."""
    take = lambda array: array.at[index].get(mode="clip")
    if not is_quantised(table):
        return take(table)
    step = take(table["scale"])
    return take(table["int8"]).astype(step.dtype) * step


def logits(
    hidden: Float[Array, "*rows n"], weight: Weight, *, tied: bool = False
) -> Float[Array, "*rows vocabulary"]:
    """Returns the logits of a head, of either kind, in float32.

    Args:
        hidden: what the head is applied to.
        weight: the head; tied, the embedding: with a row for each of the vocabulary.
        tied: which of the two.
    """
    turned = lambda matrix: matrix.T if tied else matrix
    if not is_quantised(weight):
        wide = dict(preferred_element_type=jnp.float32)
        return jnp.matmul(hidden, turned(weight), **wide)
    whole, scale = weight["int8"], weight["scale"]
    axis = 0 if tied else 1
    inputs, outputs = turned(whole).shape
    size = min(outputs, max(1, BLOCK // inputs))

    def add(i: Array, out: Array) -> Array:
        # The last block begins where there is room for it, and does some again.
        block = (
            turned(lax.dynamic_slice_in_dim(x, i * size, size, axis))
            for x in (whole, scale)
        )
        part = _product(hidden, *block)
        return lax.dynamic_update_slice_in_dim(out, part, i * size, axis=-1)

    start = jnp.zeros((*hidden.shape[:-1], outputs), jnp.float32)
    return lax.fori_loop(0, -(-outputs // size), add, start)


def _product(
    x: Float[Array, "*rows n"], whole: Num[Array, "n m"], scale: Float[Array, "1 m"]
) -> Float[Array, "*rows m"]:
    y = jnp.matmul(x, whole.astype(x.dtype), preferred_element_type=jnp.float32)
    return y * scale.reshape(-1).astype(jnp.float32)


@functools.partial(jax.jit, static_argnames=("largest", "axis"))
def _quantised(
    weight: Float[Array, "..."], largest: int, axis: int
) -> dict[str, Array]:
    most = jnp.max(jnp.abs(weight), axis, keepdims=True)
    most = jnp.where(most == 0, weight.shape[axis] ** -0.5, most)
    scale = (most / largest).astype(weight.dtype)
    whole = jnp.rint(weight / scale)
    return {"int8": jnp.clip(whole, -LIMIT, LIMIT).astype(jnp.int8), "scale": scale}
