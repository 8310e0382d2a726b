"""Keeps compilers from making a kernel of its own for each leaf of a model.

XLA makes kernels that are alike once, so that one layer more costs little. They are not
alike where it knows a number that differs between them, such as a place in an array;
and where it computes again in each what is the same for all, they are long. What comes
out of a loop it neither knows nor computes again.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, UInt32

from eggroll.perturbation import meshes


@jax.jit
def kept(values: PyTree) -> PyTree:
    """Returns arrays as they are, in such a way that compilers keep them.

    They would rather compute again what is small: a weight for each pair, or a factor.
    """
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), values)
    return jax.tree.map(lambda x: x[0], jax.lax.map(meshes.barrier, twice))


def hidden(numbers: Iterable[int]) -> list[UInt32[Array, ""]]:
    """Returns numbers, from 0, in such a way that compilers do not know them."""
    pairs = [np.array([n, n + 1], np.uint32) for n in numbers]
    each = lambda pairs: [meshes.barrier(x) for x in pairs]
    return [x[0] for x in jax.lax.map(each, pairs)]
