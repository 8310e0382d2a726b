"""One layer of a stack, looked up and replaced in place, under `jax.vmap` too.

JAX makes a gather and a scatter of slices under `jax.vmap`, even where all members take
the same layer: these check their bounds, and compilers then copy the whole stack.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, Num


@jax.custom_batching.custom_vmap
def layer_of(stack: Num[Array, "layers *dims"], i: Int[Array, ""]) -> Array:
    """Looks up a layer."""
    return lax.dynamic_index_in_dim(stack, i, keepdims=False)


@layer_of.def_vmap
def _(size: int, batched: list[bool], stack: Array, i: Array) -> tuple[Array, bool]:
    if batched[1]:
        axes = (0 if batched[0] else None, 0)
        return jax.vmap(lambda stack, i: stack[i], axes)(stack, i), True
    return lax.dynamic_index_in_dim(stack, i, 1, keepdims=False), True


@jax.custom_batching.custom_vmap
def with_layer(
    stack: Num[Array, "layers *dims"], new: Num[Array, "*dims"], i: Int[Array, ""]
) -> Array:
    """Replaces a layer."""
    return lax.dynamic_update_index_in_dim(stack, new, i, 0)


@with_layer.def_vmap
def _(
    size: int, batched: list[bool], stack: Array, new: Array, i: Array
) -> tuple[Array, bool]:
    stack, new = (
        x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
        for x, is_batched in zip((stack, new), batched, strict=False)
    )
    if batched[2]:
        put = lambda stack, new, i: stack.at[i].set(new)
        return jax.vmap(put)(stack, new, i), True
    return lax.dynamic_update_index_in_dim(stack, new, i, 1), True
