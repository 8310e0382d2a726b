"""Float32 master weights for models whose parameters are kept in fewer bits."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from eggroll.evolution.leaves import filled


class MasterState(NamedTuple):
    """State of `with_master_weights`.

    Attributes:
        master: the parameters in float32.
        inner: the state of the optimiser.
    """

    master: PyTree
    inner: optax.OptState


def with_master_weights(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Makes an optimiser keep a float32 copy of parameters of lower precision.

    A bfloat16 weight near 1 cannot take a step smaller than 1/256: most of an update
    would be lost. Here updates add up in the float32 copy, and the parameters are that
    copy, rounded.

    Args:
        optimizer: any optimiser of optax.

    Returns:
        An optimiser whose updates, through `optax.apply_updates`, make the parameters
        the rounded master weights, exactly.
    """

    def init(params: PyTree) -> MasterState:
        master = jax.tree.map(_widen, params)
        return MasterState(master, optimizer.init(master))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        if params is None:
            raise ValueError("with_master_weights needs update(grads, state, params)")
        updates = filled(updates, state.master)
        updates, inner = optimizer.update(updates, state.inner, state.master)
        master = optax.apply_updates(state.master, updates)

        def difference(new: Array, old: Array) -> Array:
            if not jnp.issubdtype(old.dtype, jnp.floating):
                return jnp.zeros_like(old)
            return _widen(new.astype(old.dtype)) - _widen(old)

        return jax.tree.map(difference, master, params), MasterState(master, inner)

    return optax.GradientTransformation(init, update)


def _widen(x: Array) -> Array:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
