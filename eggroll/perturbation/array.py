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

What a member has of its own and multiplies the whole by, a number or one for each row,
is kept apart, too, as a gain: `(weight + scale · …) · gain_1 · …`
"""

import math
from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num, Shaped

from eggroll.perturbation.product import dot_general, promoted
from eggroll.perturbation.scale import Multiple, Scale, Shift


@jax.tree_util.register_pytree_with_keys_class
class Perturbed:
    """The array `weight + scale * sum_r prod_k factors[k][..., r]`, never written out.

    (Times its gains, if it has any.)

    Factors are kept without their dimensions of size 1: inside a loop or a fused
    network, dropping those where a factor is used can cost as much as its product.

    Attributes:
        weight: the unperturbed array, shape `dims`.
        kept: the factors, as they are kept, and behind them the gains; small types are
            welcome (int8 signs), as they are converted where they are used.
        shapes: their shapes, which broadcast to `(*dims, rank)`, and to `(*dims, 1)`.
        scale: what the product of the factors is multiplied by; a `Shift` for integer
            weights that are computed with, a number or `Multiple` for others.
        paths: the names of the leaves this came from, for reports.
        looked_up: whether these are rows looked up in a table by an array of positions:
            an activation, which costs nothing to write out. (Nor does what is joined
            of full-rank arrays.)
        gained: how many of what is kept are gains.
        unfollowed: of the paths, those of leaves of which this is a product: its
            factors do not say any more where their dimensions are.
    """

    __array_ufunc__ = None  # so that NumPy arrays, too, leave `x @ self` to us

    def __init__(
        self,
        weight: Shaped[Array, "*dims"],
        factors: Sequence[Shaped[Array, "..."]],
        scale: Scale | Float[Array, ""] | float = 1.0,
        paths: tuple[str, ...] = (),
        looked_up: bool = False,
        unfollowed: tuple[str, ...] = (),
        gained: int = 0,
    ):
        self.weight = weight
        self.shapes: tuple[tuple[int, ...], ...] = tuple(f.shape for f in factors)
        self.kept = tuple(f.reshape(kept_shape(f.shape)) for f in factors)
        self.scale = scale if isinstance(scale, Scale) else Multiple(scale)
        self.paths = paths
        self.looked_up = looked_up
        self.unfollowed = unfollowed
        self.gained = gained

    @classmethod
    def matrix(
        cls,
        weight: Num[Array, "*layers rows cols"],
        left: Num[Array, "*layers rows rank"],
        right: Num[Array, "*layers cols rank"],
        scale: Scale | Float[Array, ""] | float = 1.0,
    ) -> Self:
        """Returns `weight + scale * left @ right.T`, the usual low-rank matrix."""
        return cls(weight, (left[..., :, None, :], right[..., None, :, :]), scale)

    @classmethod
    def of_kept(
        cls,
        weight: Shaped[Array, "*dims"],
        kept: Sequence[Shaped[Array, "..."]],
        shapes: Sequence[tuple[int, ...]],
        scale: Scale,
        paths: tuple[str, ...],
    ) -> Self:
        """Returns a perturbed array of factors without their dimensions of size 1."""
        static = (tuple(shapes), paths, False, (), 0)
        return cls.tree_unflatten(static, (weight, tuple(kept), scale))

    def tree_flatten_with_keys(self) -> tuple[tuple, tuple]:
        keys = (jax.tree_util.GetAttrKey(k) for k in ("weight", "kept", "scale"))
        children = zip(keys, (self.weight, self.kept, self.scale), strict=True)
        return tuple(children), self.static

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], children: Any) -> Self:
        made = object.__new__(cls)  # the children may be anything, not arrays alone
        made.weight, made.kept, made.scale = children
        made.shapes, made.paths, made.looked_up = static[:3]
        made.unfollowed, made.gained = static[3:]
        return made

    @property
    def static(self) -> tuple[Any, ...]:
        """What is no array: the static part of the pytree."""
        names = ("shapes", "paths", "looked_up", "unfollowed", "gained")
        return tuple(getattr(self, name) for name in names)

    @property
    def parts(self) -> tuple[Shaped[Array, "..."], ...]:
        """The factors and the gains with all their dimensions, the rank last."""
        return tuple(
            x.reshape(shape) for x, shape in zip(self.kept, self.shapes, strict=True)
        )

    @property
    def factors(self) -> tuple[Shaped[Array, "..."], ...]:
        """The factors with all their dimensions."""
        return self.parts[: len(self.thin)]

    @property
    def gains(self) -> tuple[Float[Array, "..."], ...]:
        """The gains, of size 1 along dimensions where they do not vary."""
        pairs = [*zip(self.kept, self.shapes, strict=True)][len(self.thin) :]
        return tuple(x.reshape(shape[:-1]) for x, shape in pairs)

    @property
    def thin(self) -> tuple[tuple[Shaped[Array, "..."], tuple[int, ...]], ...]:
        """The factors as they are kept, each with its shape."""
        pairs = zip(self.kept, self.shapes, strict=True)
        return tuple(pairs)[: len(self.kept) - self.gained]

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
        return self.shapes[0][-1]  # 1, of gains alone

    @property
    def is_integer(self) -> bool:
        """Whether it stands for whole numbers, and is computed with as such."""
        return isinstance(self.scale, Shift)

    @property
    def is_quantised(self) -> bool:
        """Whether it stands for floats, whole numbers plus noise, yet to be made such.

        Views keep it so; converted to a floating-point type it is as any other.
        """
        is_whole = jnp.issubdtype(self.dtype, jnp.integer)
        return is_whole and not self.is_integer

    @property
    def is_one_factor(self) -> bool:
        """Whether one factor alone varies: its product is as large as itself."""
        return sum(math.prod(shape) > self.rank for _, shape in self.thin) < 2

    @property
    def is_free_to_write_out(self) -> bool:
        """Whether writing it out takes no more memory than it takes already."""
        return self.is_one_factor or self.looked_up

    @property
    def has_small_factors(self) -> bool:
        """Whether each factor is far smaller than the weight, or that is a vector."""
        is_vector = all(math.prod(shape) == max(shape) for shape in self.shapes)
        return len(self.shapes) > 1 or is_vector

    def materialise(self) -> Shaped[Array, "*dims"]:
        """Returns the perturbed array itself, in the weight's type.

        Integers saturate at the ends of the symmetric range (-127 ... 127 for int8). Of
        quantised weights it is of floats (`accumulator`).
        """
        total = self.weight.astype(self.accumulator)
        if self.factors:
            factors = [factor.astype(self.accumulator) for factor in self.factors]
            product = math.prod(factors[1:], start=factors[0])
            one = self.rank == 1  # then there is nothing to sum
            delta = product.squeeze(-1) if one else product.sum(-1, self.accumulator)
            total = total + self.scale.wide(self.scale.thin(delta))
        for gain in self.gains:
            total = total * gain
        if self.is_integer:
            limit = jnp.iinfo(self.dtype).max
            total = jnp.clip(total, -limit, limit)
        return total if self.is_quantised else total.astype(self.dtype)

    @property
    def accumulator(self) -> jnp.dtype:
        """The type that products are summed in: float32 or wider, or int32."""
        if self.dtype.itemsize == 1 and jnp.issubdtype(self.dtype, jnp.floating):
            return jnp.dtype(jnp.float32)  # floats of 8 bits are promoted to nothing
        wide = jnp.int32 if self.is_integer else jnp.float32
        return promoted(self.dtype, wide)

    @property
    def T(self) -> Self:
        axes = tuple(reversed(range(self.ndim)))
        parts = [jnp.transpose(f, (*axes, self.ndim)) for f in self.parts]
        return self.replace(jnp.transpose(self.weight, axes), parts)

    def replace(self, weight: Array, parts: Sequence[Array], **changed: Any) -> Self:
        """Returns the same perturbation of another view of the weight."""
        names = ("scale", "paths", "looked_up", "unfollowed", "gained")
        same = {name: getattr(self, name) for name in names}
        return type(self)(weight, parts, **{**same, **changed})

    def times(self, gain: Float[Array, "*dims"]) -> Self:
        """Returns it with one gain more, of size 1 where that does not vary."""
        parts = [*self.parts, gain.astype(self.accumulator)[..., None]]
        return self.replace(self.weight, parts, gained=self.gained + 1)

    def with_kept(self, kept: Sequence[Array]) -> Self:
        """Returns the same perturbation with other copies of the factors."""
        return self.tree_unflatten(self.static, (self.weight, tuple(kept), self.scale))

    def of_shard(self) -> Self:
        """Returns it with its shapes as they are in a shard, where it is smaller."""
        sizes = (*self.weight.shape, self.rank)
        local = lambda shape: tuple(
            n if whole != 1 else 1 for n, whole in zip(sizes, shape, strict=True)
        )
        static = (tuple(map(local, self.shapes)), *self.static[1:])
        return self.tree_unflatten(static, (self.weight, self.kept, self.scale))

    def layer(self, weight: Array, kept: Sequence[Array]) -> Self:
        """Returns the same perturbation of one layer of a stack.

        Args:
            weight: the layer.
            kept: its part of each of the factors, as they are kept.
        """
        shapes = tuple(shape[1:] for shape in self.shapes)
        static = (shapes, *self.static[1:])
        return self.tree_unflatten(static, (weight, tuple(kept), self.scale))

    def __matmul__(self, other: Num[Array, "..."]) -> Num[Array, "..."]:
        axis = max(other.ndim - 2, 0)
        return jnp.moveaxis(self._product(other, axis, 1), -1, axis)

    def __rmatmul__(
        self, other: Num[Array, "*batch rows"]
    ) -> Num[Array, "*batch cols"]:
        return self._product(other, other.ndim - 1, 0)

    def _product(self, x: Array, axis: int, own: int) -> Num[Array, "..."]:
        if self.ndim != 2:
            raise ValueError(f"expected a perturbed matrix, got shape {self.shape}")
        return dot_general(x, self, (((axis,), (own,)), ((), ())))

    def __getitem__(self, index: Int[Array, "*batch"]) -> Shaped[Array, "..."]:
        """Returns rows of the perturbed array: an embedding's lookup."""
        take = [f[index] if f.shape[0] != 1 else f[0] for f in self.parts]
        weight = self.weight[index]
        shape = weight.shape
        lifted = [f if f.ndim == weight.ndim + 1 else _lift(f, shape) for f in take]
        return self.replace(weight, lifted).materialise()


def kept_shape(shape: Sequence[int]) -> list[int]:
    """The shape of a factor as it is kept: without dimensions of size 1."""
    return [n for n in shape if n != 1]


def _lift(factor: Array, shape: tuple[int, ...]) -> Array:
    """Gives a factor the leading dimensions of size 1 that it lacks."""
    missing = len(shape) + 1 - factor.ndim
    return factor.reshape((1,) * missing + factor.shape)
