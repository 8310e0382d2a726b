"""Products with a perturbed array: one matmul for all members, two thin ones for each.

    x (W + s A Bᵀ) = x W + s (x A) Bᵀ                (arXiv 2511.16652, section 3)

The same for arrays of any number of dimensions, with batch dimensions, and with
factors that vary along some of them: the factors are arrays whose dimensions have
names, and `x` meets one after the other.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding
from jaxtyping import Array, Num

from eggroll.perturbation.scale import Scale


class Factored(Protocol):
    """What is needed of a perturbed array; see `array.Perturbed`."""

    @property
    def weight(self) -> Array: ...
    @property
    def thin(self) -> Sequence[tuple[Array, tuple[int, ...]]]: ...
    @property
    def gains(self) -> Sequence[Array]: ...
    @property
    def scale(self) -> Scale: ...
    @property
    def ndim(self) -> int: ...
    @property
    def dtype(self) -> Any: ...
    @property
    def is_integer(self) -> bool: ...
    @property
    def accumulator(self) -> Any: ...


DotDims = tuple[
    tuple[Sequence[int], Sequence[int]], tuple[Sequence[int], Sequence[int]]
]


def dot_general(
    x: Num[Array, "..."],
    leaf: Factored,
    dims: DotDims,
    *,
    precision: Any = None,
    dtype: Any = None,
    sharding: NamedSharding | None = None,
) -> Num[Array, "..."]:
    """Contracts `x` with a perturbed array, as `lax.dot_general` with `x` on the left.

    Args:
        x: an ordinary array.
        leaf: the perturbed array on the right.
        dims: `((x contracting, leaf contracting), (x batch, leaf batch))`.
        precision: as in `lax.dot_general`.
        dtype: the type of the result; sums are taken in `leaf.accumulator` at least.
        sharding: of the result, where axes of a mesh are explicit.

    Returns:
        The product; dimensions: batch, then what is left of `x`, then of the leaf.
    """
    accumulator = leaf.accumulator
    dtype = dtype or promoted(x.dtype, leaf.dtype)
    is_complex = lambda x: jnp.issubdtype(x.dtype, jnp.complexfloating)
    if not leaf.is_integer:
        accumulator = promoted(accumulator, x.dtype)
        is_lossy = is_complex(leaf) and not is_complex(x)
        if is_lossy or not jnp.issubdtype(x.dtype, jnp.inexact):
            x = x.astype(dtype)  # as it is, it would round the factors
    before, after = _gains(x, leaf, dims)
    for gain in before:
        x = (x * gain).astype(x.dtype)
    base = lax.dot_general(
        x,
        leaf.weight,
        dims,
        precision=precision,
        preferred_element_type=accumulator,
        out_sharding=sharding,
    )
    out = base
    if leaf.thin:
        delta = perturbation(x, leaf, dims, precision)
        out = base + (delta if sharding is None else _divided(delta, sharding))
    for gain in after:
        out = out * gain
    return out.astype(dtype)


def promoted(*types: Any) -> Any:
    """The type that holds numbers of all these, in whatever mode JAX is."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*types)


def _divided(x: Array, sharding: NamedSharding) -> Array:
    """Divides an array over a mesh, but for dimensions of size 1."""
    spec = [*sharding.spec, *[None] * (x.ndim - len(sharding.spec))]
    spec = [s if n > 1 else None for s, n in zip(spec, x.shape, strict=True)]
    return jax.sharding.reshard(x, sharding.update(spec=spec))


class _Named(NamedTuple):
    """An array whose dimensions have names."""

    array: Array
    names: Sequence[str]

    def aligned(self, names: Sequence[str]) -> Array:
        """The array with dimensions as in `names`, of size 1 where it has none."""
        order = [self.names.index(n) for n in names if n in self.names]
        array = jnp.transpose(self.array, order)
        absent = [i for i, n in enumerate(names) if n not in self.names]
        return jnp.expand_dims(array, absent)


def can_apply_gains(leaf: Factored, contract: Sequence[int]) -> bool:
    """Whether each gain concerns either what is contracted or what is left."""
    every = [{d for d, n in enumerate(g.shape) if n != 1} for g in leaf.gains]
    return all(along <= {*contract} or not along & {*contract} for along in every)


def _gains(x: Array, leaf: Factored, dims: DotDims) -> tuple[list[Array], list[Array]]:
    """What `x` is multiplied by, and what the product is."""
    w_names, x_names, out = _names(x, leaf, dims)
    before, after = [], []
    for gain in leaf.gains:
        pairs = zip(w_names, gain.shape, strict=True)
        named = _Named(gain.squeeze(), [n for n, size in pairs if size != 1])
        is_after = {*named.names} <= {*out}
        (after if is_after else before).append(
            named.aligned(out if is_after else x_names)
        )
    return before, after


def _names(
    x: Array, leaf: Factored, dims: DotDims
) -> tuple[list[str], list[str], list[str]]:
    """The names of the dimensions of a leaf, of `x`, and of their product."""
    (x_contract, w_contract), (x_batch, w_batch) = dims
    w_names = [f"w{i}" for i in range(leaf.ndim)]
    x_names = [f"x{i}" for i in range(x.ndim)]
    for i, j in zip((*x_contract, *x_batch), (*w_contract, *w_batch), strict=True):
        x_names[i] = w_names[j]
    out = [w_names[j] for j in w_batch]
    out += [n for n in x_names if n.startswith("x")]
    out += [n for j, n in enumerate(w_names) if j not in {*w_contract, *w_batch}]
    return w_names, x_names, out


def perturbation(
    x: Array, leaf: Factored, dims: DotDims, precision: Any = None
) -> Num[Array, "..."]:
    """The perturbation's part of the product.

    The factor that shares most with what is contracted comes first: what it leaves is
    thin, as it has the rank where `x` had the contracted dimensions.
    """
    w_names, x_names, out = _names(x, leaf, dims)
    contracted = {*w_names} - {*out}
    of_each = []
    for factor, shape in leaf.thin:
        pairs = zip((*w_names, "rank"), shape, strict=True)
        of_each.append((factor, tuple(name for name, size in pairs if size != 1)))
    of_each.sort(key=lambda one: -len(contracted & {*one[1]}))
    factors, names = zip(*of_each, strict=True)
    how = _How(leaf.accumulator, leaf.is_integer, precision)
    return _thin_products(x, factors, leaf.scale, (*x_names,), names, (*out,), how)


class _How(NamedTuple):
    """How products are computed."""

    accumulator: Any
    is_integer: bool
    precision: Any


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6))  # traced once for leaves alike
def _thin_products(
    x: Array,
    factors: Sequence[Array],
    scale: Scale,
    x_names: tuple[str, ...],
    names: Sequence[tuple[str, ...]],
    out: tuple[str, ...],
    how: _How,
) -> Num[Array, "..."]:
    """Multiplies `x` by one factor after the other, and by the scale.

    Args:
        x: an ordinary array.
        factors: in this order.
        scale: of the perturbation.
        x_names: of the dimensions of `x`.
        names: of those of each factor.
        out: of those of the result.
        how: it is computed.
    """
    value = _Named(x, x_names)
    for k, factor in enumerate(map(_Named, factors, names)):
        needed = (*out, *itertools.chain(*names[k + 1 :]))
        value = _multiply(value, factor, needed, how)
        if not k:
            value = value._replace(array=scale.thin(value.array))
    absent = [i for i, n in enumerate(out) if n not in value.names]
    return scale.wide(jnp.expand_dims(value.array, absent))


def _multiply(x: _Named, factor: _Named, needed: Sequence[str], how: _How) -> _Named:
    """Multiplies, and sums over what neither the result nor later factors need."""
    here = dict.fromkeys([*x.names, *factor.names])
    keep = [n for n in dict.fromkeys(needed) if n in here]
    summed = [n for n in here if n not in keep]
    wide = promoted(x.array.dtype, how.accumulator)
    if _is_best_elementwise(x, factor, summed, is_integer=how.is_integer):
        return _Named(_sum_of_products(x, factor, keep, summed, wide), keep)
    number = {n: i for i, n in enumerate(here)}
    product = jnp.einsum(
        x.array,
        [number[n] for n in x.names],
        factor.array.astype(x.array.dtype),
        [number[n] for n in factor.names],
        [number[n] for n in keep],
        precision=how.precision,
        preferred_element_type=wide,
    )
    return _Named(product, keep)


def _is_best_elementwise(
    x: _Named, factor: _Named, summed: Sequence[str], *, is_integer: bool
) -> bool:
    """Whether to multiply elementwise, rather than by a matmul.

    Where nothing is summed, there is no matmul; and where a vector meets a vector, it
    would be a kernel of its own for one row, while compilers fuse a sum of products
    into its neighbours. For integers, whose matmuls of one row are slow, a vector meets
    a whole matrix of factors in this way, too.
    """
    own = sum(n > 1 for n in x.array.shape)  # a batch of one row is a vector
    are_vectors = own == len(factor.names) == len(summed)
    return not summed or are_vectors or (is_integer and own == 1)


def _sum_of_products(
    x: _Named, factor: _Named, keep: Sequence[str], summed: Sequence[str], wide: Any
) -> Array:
    names = [*keep, *summed]
    product = x._replace(array=x.array.astype(wide)).aligned(names) * factor._replace(
        array=factor.array.astype(wide)
    ).aligned(names)
    axes = tuple(range(len(keep), len(names)))
    return jnp.sum(product, axis=axes, dtype=wide) if axes else product
