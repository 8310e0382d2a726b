"""Decay of weights towards where they started, in place of zero.

    parameters <- parameters + u - rate (parameters - start)

where u is the optimiser's update. What noise adds to the parameters from step to step
is forgotten with a half-life of about log(2)/rate steps, so that it does not add up to
a walk without end: for updates that are the same at each step, the parameters come to
rest at start + u/rate; for updates of independent noise of deviation s, they stay
within s/√(2 rate) of the start.

References:
    For populations: "Anchored Weight Decay", arXiv 2605.30148. That a decay is best
    kept apart from the gradient: Loshchilov and Hutter, arXiv 1711.05101.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from eggroll.evolution.validation import is_traced


class AnchoredState(NamedTuple):
    """State of `anchored`.

    Attributes:
        step: how many updates were made; a schedule is read at it.
        start: the parameters that `init` was given; None for what is no float.
        inner: the state of the optimiser.
    """

    step: Int[Array, ""]
    start: PyTree
    inner: optax.OptState


def anchored(
    optimizer: optax.GradientTransformation, rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """Makes an optimiser take back, at each step, a share of the way from the start.

    Args:
        optimizer: any optimiser of optax, whose updates stay what they are.
        rate: the share, from 0 to 1, whatever the learning rate; or a function from
            step to it, for learning rates that change.

    Returns:
        An optimiser that keeps the parameters of `init`, once. For leaves that do not
        move, wrap it in `optax.masked`: then nothing is kept of them. Inside of
        `with_master_weights`, not around it, so that small pulls add up.

    Raises:
        ValueError: for a rate outside [0, 1], or an update without parameters.
    """
    if not callable(rate) and not is_traced(rate) and not 0 <= rate <= 1:
        raise ValueError(f"rate must be a share from 0 to 1, got {rate!r}")

    def init(params: PyTree) -> AnchoredState:
        start = jax.tree.map(_kept, params)
        return AnchoredState(jnp.zeros((), jnp.int32), start, optimizer.init(params))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        if params is None:
            raise ValueError("anchored needs update(grads, state, params)")
        share = rate(state.step) if callable(rate) else rate
        updates, inner = optimizer.update(updates, state.inner, params)

        def pulled(update: Any, now: Any, start: Any) -> Any:
            if update is None or start is None:
                return update
            return (update - share * (now - start)).astype(jnp.result_type(update))

        moves = jax.tree.map(
            pulled, updates, params, state.start, is_leaf=lambda x: x is None
        )
        return moves, AnchoredState(state.step + 1, state.start, inner)

    return optax.GradientTransformation(init, update)


def _kept(leaf: Any) -> Array | None:
    """A copy: the parameters themselves may be donated."""
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        return None
    return jnp.array(leaf, copy=True)
