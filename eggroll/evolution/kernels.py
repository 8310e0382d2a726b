"""Keeps compilers from making a kernel of its own for each leaf of a model.

XLA makes kernels that are alike once, so that one layer more costs little. They are not
alike where it knows a number that differs between them, such as a place in an array;
and where it computes again in each what is the same for all, they are long. What comes
out of an optimisation barrier it neither knows nor computes again; and where it drops
barriers, as its CPU backend does, what comes out of a loop. (A loop costs a fill of its
results and a round of kernels for each turn, of which accelerators feel the most.)
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, UInt32

from eggroll.perturbation import meshes


def barriers_hold() -> bool:
    """Whether the compiler keeps barriers until it has made its kernels."""
    return jax.default_backend() != "cpu"


@jax.jit
def kept(values: PyTree) -> PyTree:
    """Returns arrays as they are, in such a way that compilers keep them.

    They would rather compute again what is small: a weight for each pair, or a factor.
    """
    if barriers_hold():
        return meshes.barrier(values)
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), values)
    return jax.tree.map(lambda x: x[0], jax.lax.map(meshes.barrier, twice))


def hidden(numbers: Iterable[int]) -> list[UInt32[Array, ""]]:
    """Returns numbers, from 0, in such a way that compilers do not know them.

    The loop changes nothing. (A barrier would do on a CPU, too, but that XLA compiles
    none here for integer models: see `eggroll.integer.compilation`.)
    """
    if barriers_hold():
        return meshes.barrier([jnp.uint32(n) for n in numbers])

    def unchanged(turn: UInt32[Array, ""], kept: list[Array]) -> list[Array]:
        zero = turn >> np.uint32(31)
        return [x ^ zero for x in kept]

    first, behind = np.uint32(0), np.uint32(2)
    return jax.lax.fori_loop(first, behind, unchanged, [jnp.uint32(n) for n in numbers])


def in_turn(function: Callable[[Any], PyTree], blocks: PyTree) -> PyTree:
    """Applies a function to each block, and keeps what comes out: `lax.map`.

    Where barriers hold, to all at once.
    """
    if barriers_hold():
        return meshes.barrier(jax.vmap(function)(blocks))
    return jax.lax.map(function, blocks)
