"""ClipUp: momentum that measures steps by their length, for gradients of any length.

    v ← m v + α g / ‖g‖,    v ← v min(1, v_max / ‖v‖),    parameters ← parameters - v

The gradient says where to go and never how far. A step is at most v_max long, whatever
the shaping, so that α and v_max are lengths in the space of parameters, to be chosen
with the radius at which members stand, σ √d, in mind.

References:
    Toklu, Liskowski, Srivastava, "ClipUp: A Simple and Powerful Optimizer for
    Distribution-based Policy Evolution", PPSN 2020, arXiv 2008.02387.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from eggroll.evolution.centring import scaled_down
from eggroll.evolution.validation import is_traced


class ClipUpState(NamedTuple):
    """State of `clipup`.

    Attributes:
        step: how many updates were made; a schedule is read at it.
        velocity: like the parameters, float32 where they are shorter.
    """

    step: Int[Array, ""]
    velocity: PyTree


def clipup(
    learning_rate: optax.ScalarOrSchedule,
    momentum: Any = 0.9,
    max_speed: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformation:
    """Moves by a velocity of limited length, to which gradients add their direction.

    Args:
        learning_rate: α, the length that a gradient adds to the velocity; or a function
            from step to it.
        momentum: m, what is left of the velocity after a step; the paper's 0.9.
        max_speed: v_max, the length of the longest step; or a function from step to it.
            None for twice the learning rate, as the paper recommends.

    Returns:
        An optimiser for gradients that point downhill, as all of optax. Lengths are
        Euclidean, over all leaves together. A gradient of zero adds nothing.

    Raises:
        ValueError: for a negative learning rate, a maximal speed that is not positive,
            or a momentum outside [0, 1).
    """
    _check("learning_rate", learning_rate, lambda x: x >= 0, "a number, at least 0")
    _check("momentum", momentum, lambda x: 0 <= x < 1, "a number from 0, below 1")
    _check("max_speed", max_speed, lambda x: x > 0, "a positive number")

    def init(params: PyTree) -> ClipUpState:
        return ClipUpState(jnp.zeros((), jnp.int32), jax.tree.map(_at_rest, params))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        rate = _at(learning_rate, state.step)
        limit = 2 * rate if max_speed is None else _at(max_speed, state.step)
        wide = jax.tree.map(_as_velocity, updates, state.velocity, is_leaf=_is_none)
        faster = jax.tree.map(
            lambda v, g: (momentum * v + rate * g).astype(v.dtype),
            state.velocity,
            _unit(wide),
        )
        speed = optax.tree.norm(faster)
        share = jnp.where(speed > limit, limit / jnp.where(speed > 0, speed, 1), 1)
        velocity = jax.tree.map(lambda v: (v * share).astype(v.dtype), faster)
        moves = jax.tree.map(_as_update, updates, velocity, is_leaf=_is_none)
        return moves, ClipUpState(state.step + 1, velocity)

    return optax.GradientTransformation(init, update)


def _is_none(x: Any) -> bool:
    return x is None


def _at(value: Any, step: Int[Array, ""]) -> Any:
    return value(step) if callable(value) else value


def _at_rest(leaf: Any) -> Array:
    dtype = jnp.result_type(leaf)
    wide = dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.float32
    return jnp.zeros(jnp.shape(leaf), jnp.promote_types(wide, jnp.float32))


def _as_velocity(gradient: Any, velocity: Any) -> Any:
    """The gradient in the velocity's precision; zero if None, or of whole numbers."""
    if gradient is None or not jnp.issubdtype(jnp.result_type(gradient), jnp.floating):
        return jax.tree.map(jnp.zeros_like, velocity)  # perhaps None, too
    return jnp.asarray(gradient, velocity.dtype)


def _as_update(gradient: Any, velocity: Array) -> Array | None:
    """Minus the velocity, in the gradient's type, as optax's optimisers have it."""
    return None if gradient is None else (-velocity).astype(jnp.result_type(gradient))


def _unit(tree: PyTree) -> PyTree:
    """A vector of length 1 in the same direction, or zero for zero.

    Entries are brought near 1 before they are squared: gradients may be of any size
    that their type can hold.
    """
    largest = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(tree)]
    _, unit = scaled_down(jnp.stack([jnp.zeros(()), *largest]))
    tree = jax.tree.map(lambda x: x / unit[0], tree)
    length = optax.tree.norm(tree)
    return jax.tree.map(lambda x: x / jnp.where(length == 0, 1, length), tree)


def _check(
    name: str, value: Any, is_right: Callable[[Any], bool], expected: str
) -> None:
    if value is None or callable(value) or is_traced(value):
        return
    if isinstance(value, str) or jnp.ndim(value) or not is_right(value):
        raise ValueError(f"{name} must be {expected}, got {value!r}")
