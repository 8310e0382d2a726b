"""Single members of a population: their signs, pairs and rows, and their parameters."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Int8

from eggroll.perturbation.array import Perturbed, kept_shape
from eggroll.perturbation.layout import Layout
from eggroll.perturbation.scale import Scale


# For each leaf its factors as they are kept, with a leading dimension of members, and
# its scale; None for a frozen one.
Drawn = Sequence[tuple[tuple[Array, ...], Scale] | None]


class Members(NamedTuple):
    """Some members of a population, and what is needed to perturb for them.

    Attributes:
        index: which members.
        sign: +1 or -1: of each one's perturbation.
        pair: whose noise each one uses.
        repeat: how many members in a row use the same noise.
    """

    index: Int[Array, " members"]
    sign: Int8[Array, " members"]
    pair: Int[Array, " members"]
    repeat: int

    @classmethod
    def of(cls, index: Int[Array, " members"], *, antithetic: bool) -> "Members":
        """Describes members; of an even number with pairs, neighbours are a pair."""
        if not antithetic:
            return cls(index, jnp.ones(index.shape, jnp.int8), index, 1)
        whole = index.shape[0] % 2 == 0
        sign = (1 - 2 * (index % 2)).astype(jnp.int8)
        return cls(index, sign, index // 2, 2 if whole else 1)


def perturb(
    params: Sequence[Array], layouts: Sequence[Layout], drawn: Drawn
) -> list[Any]:
    """Returns one member's parameters, perturbed but not written out."""

    def leaf(weight: Array, layout: Layout, one: Any) -> Any:
        if one is None:
            return weight
        factors, scale = one
        shapes, paths = layout.factor_shapes, (layout.path,)
        return Perturbed.of_kept(weight, factors, shapes, scale, paths)

    return [leaf(*x) for x in zip(params, layouts, drawn, strict=True)]


def kept(factors: Sequence[Array]) -> tuple[Array, ...]:
    """Returns factors of many members as `Perturbed` keeps those of one."""
    return tuple(x.reshape(x.shape[0], *kept_shape(x.shape[1:])) for x in factors)


def to_map(layouts: Sequence[Layout], drawn: Drawn) -> tuple[Drawn, Any]:
    """Lays factors out for `jax.vmap` over members; returns them and their axes.

    Members come first, but second where a loop takes layers apart: it wants the layers
    first, and would transpose all factors each time it starts, as for every token that
    a language model generates.
    """
    behind = [int(layout.scanned) for layout in layouts]
    moved = [
        one and (tuple(jnp.moveaxis(x, 0, axis) for x in one[0]), one[1])
        for one, axis in zip(drawn, behind, strict=True)
    ]
    axes = [
        one and (axis, jax.tree.map(lambda x: 0 if jnp.ndim(x) else None, one[1]))
        for one, axis in zip(drawn, behind, strict=True)
    ]
    return moved, axes


def rows_of_members(
    x: Array, mapped: bool, index: Int[Array, " members"], size: int
) -> Array:
    """What some members read of an argument.

    Args:
        x: the argument.
        mapped: whether it has rows: one for each group of consecutive members.
        index: which members.
        size: how many there are in all.

    Returns:
        For each of them the row of its group; what is not mapped, as it is.
    """
    return x[index // (size // x.shape[0])] if mapped else x
