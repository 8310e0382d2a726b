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
    """Returns numbers, from 0, in such a way that compilers do not know them.

    The loop changes nothing. (A barrier would do, but that XLA compiles none here for
    integer models: see `eggroll.integer.compilation`.)
    """
    unchanged = lambda i, x: x ^ (i.astype(jnp.uint32) >> np.uint32(31))
    body = lambda i, kept: [unchanged(i, x) for x in kept]
    return jax.lax.fori_loop(0, 2, body, [jnp.uint32(n) for n in numbers])
