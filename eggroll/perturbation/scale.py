"""What a perturbation is multiplied by, in the arithmetic of its weight.

A scale is applied in two places, because of what each costs and rounds: `thin` while
the product is as narrow as the rank, `wide` once it has the width of the result. Floats
are multiplied while that is cheap. Integers are shifted at the end, as a shift rounds;
only their sign and gain, which are exact, go in before.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class Multiple:
    """The scale of a floating-point perturbation.

    Attributes:
        value: what it is multiplied by.
    """

    value: Float[Array, ""] | float

    def thin(self, product: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
        """Applies what has to be applied while the product is thin."""
        return product * self.value

    def wide(self, product: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
        """Applies the rest, to the result of the product."""
        return product

    def rescaled(self, operation: Callable, number: Array) -> "Multiple":
        """The scale of the perturbation times or over a number."""
        return Multiple(operation(self.value, number))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["sign"],
    meta_fields=["bits", "gain", "floor"],
)
@dataclasses.dataclass(frozen=True)
class Shift:
    """The scale of an integer perturbation: sign · gain / 2**bits, rounded.

    Attributes:
        sign: +1 or -1, for the two members of an antithetic pair. Rounding to nearest
            is symmetric, so that the members mirror each other exactly.
        bits: a negative number multiplies.
        gain: makes up for what bits alone cannot express, such as 1/√2.
        floor: drop the remainder, as the published arithmetic shift does: it moves both
            members of a pair the same way. Else round to nearest, symmetrically.
    """

    sign: Int[Array, ""]
    bits: int
    gain: int = 1
    floor: bool = False

    def thin(self, product: Int[Array, "*dims"]) -> Int[Array, "*dims"]:
        return product * jnp.asarray(self.sign * self.gain, product.dtype)

    def wide(self, product: Int[Array, "*dims"]) -> Int[Array, "*dims"]:
        if self.bits <= 0:
            return product << -self.bits if self.bits else product
        if not self.floor:
            # Adding a half rounds halves up; `>> 31` is -1 for what is negative, and
            # sends its halves down: away from zero on both sides.
            width = 8 * product.dtype.itemsize
            product = product + (1 << (self.bits - 1)) + (product >> (width - 1))
        return product >> self.bits

    def rescaled(self, operation: Callable, number: Array) -> None:
        return None  # a product of integers would round in another place


Scale = Multiple | Shift
