"""What a member adds to its parameters, as thin matrices that can be sent elsewhere."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from eggroll.perturbation.layout import Layout
from eggroll.perturbation.scale import Multiple


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["left", "right", "multiplier"],
    meta_fields=["layout"],
)
@dataclasses.dataclass(frozen=True)
class Factors:
    """What a member adds to a leaf: `multiplier * (left @ right.T)`.

    The dimensions of the leaf that come first are the rows of `left`, the others those
    of `right`, several of them as one. Dimensions along which there is a matrix each,
    as of stacked layers, lead in both. Of a pair's members, one of the two differs in
    sign.

    Attributes:
        left: whole numbers, as float32; of a leaf that is perturbed at full rank, all
            of them, in the leaf's shape.
        right: beside it; None at full rank.
        multiplier: sigma, over what makes the entries of the product vary by one.
        layout: of the leaf.
    """

    left: Float[Array, "*layers rows rank"]
    right: Float[Array, "*layers cols rank"] | None
    multiplier: Float[Array, ""]
    layout: Layout

    @property
    def path(self) -> str:
        """The leaf's name in the parameters, such as "layers/q"."""
        return self.layout.path

    @property
    def written(self) -> Float[Array, "*dims"]:
        """What is added, written out in the leaf's shape."""
        if self.right is None:
            return self.multiplier * self.left
        product = self.left @ jnp.swapaxes(self.right, -1, -2)
        order = [d for dims in _sides(self.layout) for d in dims]
        product = product.reshape([self.layout.shape[d] for d in order])
        return self.multiplier * jnp.transpose(product, _inverse(order))


def of(layout: Layout, drawn: Sequence[Int8[Array, "..."]], scale: Multiple) -> Factors:
    """Returns what was drawn for a leaf as matrices.

    Args:
        layout: of the leaf, which is not frozen.
        drawn: its factors, as `Perturbed` keeps them.
        scale: of their product.
    """
    whole = zip(drawn, layout.factor_shapes, strict=True)
    wide = [x.reshape(shape).astype(jnp.float32) for x, shape in whole]
    multiplier = jnp.asarray(scale.value, jnp.float32)
    if not layout.cols:
        return Factors(wide[0][..., 0], None, multiplier, layout)
    batch, first, second = _sides(layout)
    order = (*batch, *first, *second, len(layout.shape))
    layers = [layout.shape[d] for d in batch]
    matrices = [jnp.transpose(x, order).reshape(*layers, -1, layout.rank) for x in wide]
    left, right = matrices if first == layout.rows else matrices[::-1]
    return Factors(left, right, multiplier, layout)


def _sides(layout: Layout) -> tuple[tuple[int, ...], ...]:
    """The dimensions of a stack, of the left factor and of the right one."""
    return layout.batch, *sorted((layout.rows, layout.cols))


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=lambda i: order[i])
