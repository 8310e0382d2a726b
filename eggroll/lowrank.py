"""The perturbed array: a weight plus a product of small factors, never written out.

A matrix M perturbed by σ/√r A Bᵀ is kept as M, A and B, so that

    x (M + σ/√r A Bᵀ) = x M + σ/√r (x A) Bᵀ        (arXiv 2511.16652, section 3)

costs one matmul shared by the whole population and two thin products a member. The same
form serves arrays of any number of dimensions: each factor has the dimensions of the
weight, of size 1 where it does not vary, and behind them the rank:

    perturbed = weight + scale · Σ_r  factor_1[..., r] · factor_2[..., r] · …

Two factors that vary along complementary dimensions make a low-rank perturbation (along
shared dimensions too: one matrix per layer of a stack); one factor that varies along
all dimensions makes a full-rank one.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Num, Shaped


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["sign"],
    meta_fields=["bits", "gain", "floor"],
)
@dataclasses.dataclass(frozen=True)
class Shift:
    """The scale of an integer perturbation: sign · gain / 2**bits, rounded.

    Attributes:
        sign: +1 or -1, for the two members of an antithetic pair. It is taken into a
            thin product, so that it is exact: rounding to nearest is symmetric.
        bits: a negative number multiplies.
        gain: makes up for what bits alone cannot express, such as 1/√2.
        floor: drop the remainder, as the published arithmetic shift does: it moves both
            members of a pair the same way. Else round to nearest, symmetrically.
    """

    sign: Int[Array, ""]
    bits: int
    gain: int = 1
    floor: bool = False

    def signed(self, product: Int[Array, "*dims"]) -> Int[Array, "*dims"]:
        """Returns sign · gain · product: to be used while the product is thin."""
        return product * jnp.asarray(self.sign * self.gain, product.dtype)

    def shifted(self, product: Int[Array, "*dims"]) -> Int[Array, "*dims"]:
        """Returns product / 2**bits, rounded."""
        if self.bits <= 0:
            return product << -self.bits if self.bits else product
        if not self.floor:
            # Adding a half rounds halves up; `>> 31` is -1 for what is negative, and
            # sends its halves down: away from zero on both sides.
            width = 8 * product.dtype.itemsize
            product = product + (1 << (self.bits - 1)) + (product >> (width - 1))
        return product >> self.bits


@jax.tree_util.register_pytree_with_keys_class
class Perturbed:
    """The array `weight + scale * sum_r prod_k factors[k][..., r]`, never written out.

    Factors are kept without their dimensions of size 1: inside a loop or a fused
    network, dropping those where a factor is used can cost as much as its product.

    Attributes:
        weight: the unperturbed array, shape `dims`.
        kept: the factors, as they are kept; small types are welcome (int8 signs), as
            they are converted where they are used.
        shapes: the factors' shapes, which broadcast to `(*dims, rank)`.
        scale: a scalar, or a `Shift` for integer weights.
        paths: the names of the leaves this came from, for reports.
        looked_up: whether these are rows looked up in a table by an array of positions:
            an activation, which costs nothing to write out.
    """

    __array_ufunc__ = None  # so that NumPy arrays, too, leave `x @ self` to us

    def __init__(
        self,
        weight: Shaped[Array, "*dims"],
        factors: Sequence[Shaped[Array, "..."]],
        scale: Float[Array, ""] | float | Shift = 1.0,
        paths: tuple[str, ...] = (),
        looked_up: bool = False,
    ):
        self.weight = weight
        self.shapes: tuple[tuple[int, ...], ...] = tuple(f.shape for f in factors)
        self.kept = tuple(f.reshape([n for n in f.shape if n != 1]) for f in factors)
        self.scale = scale
        self.paths = paths
        self.looked_up = looked_up

    @classmethod
    def matrix(
        cls,
        weight: Num[Array, "*layers rows cols"],
        left: Num[Array, "*layers rows rank"],
        right: Num[Array, "*layers cols rank"],
        scale: Float[Array, ""] | float | Shift = 1.0,
    ) -> Self:
        """Returns `weight + scale * left @ right.T`, the usual low-rank matrix."""
        return cls(weight, (left[..., :, None, :], right[..., None, :, :]), scale)

    def tree_flatten_with_keys(self) -> tuple[tuple, tuple]:
        keys = (jax.tree_util.GetAttrKey(k) for k in ("weight", "kept", "scale"))
        children = zip(keys, (self.weight, self.kept, self.scale), strict=True)
        return tuple(children), self.static

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], children: Any) -> Self:
        made = object.__new__(cls)  # the children may be anything, not arrays alone
        made.weight, made.kept, made.scale = children
        made.shapes, made.paths, made.looked_up = static
        return made

    @property
    def static(self) -> tuple[Any, ...]:
        """What is no array: the static part of the pytree."""
        return self.shapes, self.paths, self.looked_up

    @property
    def factors(self) -> tuple[Shaped[Array, "..."], ...]:
        """The factors with all their dimensions."""
        return tuple(
            x.reshape(shape) for x, shape in zip(self.kept, self.shapes, strict=True)
        )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    @property
    def dtype(self) -> jnp.dtype:
        return self.weight.dtype

    @property
    def ndim(self) -> int:
        return self.weight.ndim

    @property
    def rank(self) -> int:
        return self.shapes[0][-1]

    @property
    def is_thin(self) -> bool:
        """Whether one factor alone varies: writing it out costs nothing."""
        return sum(math.prod(shape) > self.rank for shape in self.shapes) < 2

    @property
    def is_small(self) -> bool:
        """Whether the factors are vectors or thin matrices, and no full-rank one."""
        sizes = [(math.prod(shape), *shape) for shape in self.shapes]
        return len(sizes) > 1 or all(size == max(dims) for size, *dims in sizes)

    def materialise(self) -> Shaped[Array, "*dims"]:
        """Returns the perturbed array itself, in the weight's type.

        Integers saturate at the ends of the symmetric range (-127 ... 127 for int8).
        """
        product = jnp.asarray(1, self.accumulator)
        for factor in self.factors:
            product = product * factor.astype(self.accumulator)
        delta = jnp.sum(product, axis=-1, dtype=self.accumulator)
        if isinstance(self.scale, Shift):
            limit = jnp.iinfo(self.dtype).max
            delta = self.scale.shifted(self.scale.signed(delta))
            total = self.weight.astype(self.accumulator) + delta
            return jnp.clip(total, -limit, limit).astype(self.dtype)
        total = self.weight.astype(self.accumulator) + self.scale * delta
        return total.astype(self.dtype)

    @property
    def accumulator(self) -> jnp.dtype:
        """The type that products are summed in: float32 or wider, or int32."""
        wide = jnp.int32 if jnp.issubdtype(self.dtype, jnp.integer) else jnp.float32
        return jnp.promote_types(self.dtype, wide)

    @property
    def T(self) -> Self:
        axes = tuple(reversed(range(self.ndim)))
        factors = [jnp.transpose(f, (*axes, self.ndim)) for f in self.factors]
        return self.replace(jnp.transpose(self.weight, axes), factors)

    def replace(self, weight: Array, factors: Sequence[Array]) -> Self:
        """Returns the same perturbation of another view of the weight."""
        return type(self)(weight, factors, self.scale, self.paths, self.looked_up)

    def with_kept(self, kept: Sequence[Array]) -> Self:
        """Returns the same perturbation with other copies of the factors."""
        return self.tree_unflatten(self.static, (self.weight, tuple(kept), self.scale))

    def __matmul__(self, other: Num[Array, "..."]) -> Num[Array, "..."]:
        if self.ndim != 2:
            raise ValueError(f"expected a perturbed matrix, got shape {self.shape}")
        axis = max(other.ndim - 2, 0)
        out = dot_general(other, self, (((axis,), (1,)), ((), ())))
        return jnp.moveaxis(out, -1, axis)

    def __rmatmul__(
        self, other: Num[Array, "*batch rows"]
    ) -> Num[Array, "*batch cols"]:
        if self.ndim != 2:
            raise ValueError(f"expected a perturbed matrix, got shape {self.shape}")
        return dot_general(other, self, (((other.ndim - 1,), (0,)), ((), ())))

    def __getitem__(self, index: Int[Array, "*batch"]) -> Shaped[Array, "..."]:
        """Returns rows of the perturbed array: an embedding's lookup."""
        take = [f[index] if f.shape[0] != 1 else f[0] for f in self.factors]
        weight = self.weight[index]
        shape = weight.shape
        lifted = [f if f.ndim == weight.ndim + 1 else _lift(f, shape) for f in take]
        return self.replace(weight, lifted).materialise()


def _lift(factor: Array, shape: tuple[int, ...]) -> Array:
    """Gives a factor the leading dimensions of size 1 that it lacks."""
    missing = len(shape) + 1 - factor.ndim
    return factor.reshape((1,) * missing + factor.shape)


DotDims = tuple[
    tuple[Sequence[int], Sequence[int]], tuple[Sequence[int], Sequence[int]]
]


def dot_general(
    x: Num[Array, "..."],
    leaf: Perturbed,
    dims: DotDims,
    *,
    precision: Any = None,
    dtype: Any = None,
) -> Num[Array, "..."]:
    """Contracts `x` with a perturbed array, as `lax.dot_general` with `x` on the left.

    Args:
        x: an ordinary array.
        leaf: the perturbed array on the right.
        dims: `((x contracting, leaf contracting), (x batch, leaf batch))`.
        precision: as in `lax.dot_general`.
        dtype: the type of the result; sums are taken in `leaf.accumulator` at least.

    Returns:
        The product; dimensions: batch, then what is left of `x`, then of the leaf.
    """
    accumulator = leaf.accumulator
    dtype = dtype or jnp.result_type(x.dtype, leaf.dtype)
    if jnp.issubdtype(leaf.dtype, jnp.floating) and not jnp.issubdtype(
        x.dtype, jnp.inexact
    ):
        x = x.astype(dtype)  # integers would round the factors
    base = lax.dot_general(
        x, leaf.weight, dims, precision=precision, preferred_element_type=accumulator
    )
    return (base + _contract(x, leaf, dims, precision)).astype(dtype)


def _contract(
    x: Array, leaf: Perturbed, dims: DotDims, precision: Any
) -> Num[Array, "..."]:
    """The perturbation's part of a product: `x` meets one factor after the other."""
    (x_contract, w_contract), (x_batch, w_batch) = dims
    w_names = [f"w{i}" for i in range(leaf.ndim)]
    x_names = [f"x{i}" for i in range(x.ndim)]
    for i, j in zip((*x_contract, *x_batch), (*w_contract, *w_batch), strict=True):
        x_names[i] = w_names[j]
    out = [w_names[j] for j in w_batch]
    out += [n for n in x_names if n.startswith("x")]
    used = {*w_contract, *w_batch}
    out += [n for j, n in enumerate(w_names) if j not in used]

    factors = [
        (f, [n for n, size in zip((*w_names, "rank"), shape, strict=True) if size != 1])
        for f, shape in zip(leaf.kept, leaf.shapes, strict=True)
    ]
    contracted = {w_names[j] for j in w_contract}
    factors.sort(key=lambda f: -len(contracted & set(f[1])))
    value, names = x, x_names
    for k, (factor, factor_names) in enumerate(factors):
        later = dict.fromkeys(n for _, f in factors[k + 1 :] for n in f)
        keep = [n for n in out if n in {*names, *factor_names}]
        keep += [n for n in later if n in {*names, *factor_names} and n not in out]
        value = _product(
            (value, names), (factor, factor_names), keep, leaf.accumulator, precision
        )
        names = keep
        if k == 0:  # while it is still thin
            scale = leaf.scale
            value = scale.signed(value) if isinstance(scale, Shift) else value * scale
    absent = [i for i, n in enumerate(out) if n not in names]
    value = jnp.expand_dims(value, absent)
    return leaf.scale.shifted(value) if isinstance(leaf.scale, Shift) else value


def _product(
    x: tuple[Array, list[str]],
    factor: tuple[Array, list[str]],
    out: list[str],
    accumulator: jnp.dtype,
    precision: Any,
) -> Array:
    """Multiplies two named arrays and sums over the names that `out` lacks.

    A vector meets a vector as a sum of products, and what is not summed as a broadcast
    product: compilers fuse those into their neighbours, where a batched `dot` of one
    row each would be a kernel of its own. (A slow one for integers: there a vector
    meets a matrix of factors in this way, too.)
    """
    (value, names), (array, array_names) = x, factor
    summed = [n for n in dict.fromkeys([*names, *array_names]) if n not in out]
    wide = jnp.promote_types(value.dtype, accumulator)
    are_vectors = len(names) == len(array_names) == len(summed)
    is_integer_vector = len(names) == 1 and jnp.issubdtype(wide, jnp.integer)
    if not summed or are_vectors or is_integer_vector:
        aligned = [*out, *summed]
        product = _align(value.astype(wide), names, aligned) * _align(
            array.astype(wide), array_names, aligned
        )
        return jnp.sum(product, axis=tuple(range(len(out), len(aligned))), dtype=wide)
    letters = {n: i for i, n in enumerate(dict.fromkeys([*names, *array_names]))}
    return jnp.einsum(
        value,
        [letters[n] for n in names],
        array.astype(value.dtype),
        [letters[n] for n in array_names],
        [letters[n] for n in out],
        precision=precision,
        preferred_element_type=wide,
    )


def _align(array: Array, names: list[str], target: list[str]) -> Array:
    """Orders a named array's dimensions as in `target`; size 1 where it has none."""
    order = [names.index(n) for n in target if n in names]
    array = jnp.transpose(array, order)
    return jnp.expand_dims(array, [i for i, n in enumerate(target) if n not in names])
