"""Small steps of weights of eight bits: what rounding would lose is kept beside them.

A weight of whole numbers cannot take a step below one. Here a weight is its whole
number and a residual, a fraction of one between -1/2 and 1/2, and steps add up in both:

    total = weight + residual + step,   weight ← round(total),   residual ← the rest.

The residual is of eight bits itself (or sixteen): whole multiples of 1/256, to which a
step is rounded at random, up or down, such that its expectation is the step. The sum of
weight and residual is then exactly the sum of the rounded steps, in integers, and after
n steps it lies within √n/512 (one standard deviation, at most) of the sum of the steps:
nothing is lost, however small. A float32 residual rounds as floats do and draws
nothing.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray, PyTree


LIMIT = 127  # of a weight, on both sides
_MOST = 4 * LIMIT  # of a step, in units of the weight: more than any can take


class ResidualState(NamedTuple):
    """State of `with_residual`.

    Attributes:
        residual: of each leaf of int8 that learns, in its type: whole multiples of
            1/256 (int16: 1/65536) of the weight's unit, or float32; None of others.
        inner: the state of the optimiser.
        count: of steps.
        saturated: how many weights lost a part of the last step, since they are at an
            end of their range (-127 ... 127), or the step was not finite.
    """

    residual: PyTree
    inner: optax.OptState
    count: Int[Array, ""]
    saturated: Int[Array, ""]


def with_residual(
    optimizer: optax.GradientTransformation,
    *,
    units: PyTree | Callable[[PyTree], PyTree] = None,
    mask: PyTree | None = None,
    dtype: DTypeLike = jnp.int8,
    seed: int = 0,
) -> optax.GradientTransformation:
    """Makes an optimiser move weights of eight bits by steps of any size.

    The optimiser sees floats: of a weight its unit times weight and residual, and the
    gradient for that. So rates, decay of weights and norms are those of the model in
    floating point. It is the outermost of what is wrapped around it.

    Args:
        optimizer: any optimiser of optax. Leaves of floats are left to it.
        units: what one of each leaf is worth, broadcast to the leaf: a pytree like the
            parameters, or a function from them to one, such as
            `models.llm.int8.units`; None: 1.
        mask: which leaves learn, as from `eggroll.trainable`; None: all of floats and
            all of int8. The others stay where they are, and the optimiser does not see
            them.
        dtype: of the residuals: int8 (two bytes a weight in all), int16 or float32.
        seed: of the rounding at random; equal seeds round equally.

    Returns:
        An optimiser whose updates of int8 leaves are whole numbers, for
        `optax.apply_updates`; they never lead out of -127 ... 127.

    Raises:
        ValueError: for a type that residuals cannot have.
    """
    if jnp.dtype(dtype) not in (jnp.int8, jnp.int16, jnp.float32):
        raise ValueError(
            f"residuals are int8, int16 or float32, got {jnp.dtype(dtype)}: a float of "
            f"fewer bits would lose small steps"
        )

    kept = _Kept(optimizer, units, mask, jnp.dtype(dtype), seed)
    return optax.GradientTransformation(kept.init, kept.update)


@dataclasses.dataclass(frozen=True)
class _Kept:
    """The two functions of an optimiser, and what they know; see `with_residual`."""

    optimizer: optax.GradientTransformation
    units: PyTree | Callable[[PyTree], PyTree]
    mask: PyTree | None
    dtype: Any
    seed: int

    def init(self, params: PyTree) -> ResidualState:
        tree, leaves = jax.tree.structure(params), self._leaves(params)
        residual = [
            jnp.zeros(x.weight.shape, self.dtype) if x.moves else None for x in leaves
        ]
        seen = [x.seen(r) for x, r in zip(leaves, residual, strict=True)]
        inner = self.optimizer.init(jax.tree.unflatten(tree, seen))
        zero = jnp.int32(0)
        return ResidualState(jax.tree.unflatten(tree, residual), inner, zero, zero)

    def update(self, updates: Any, state: Any, params: Any = None) -> Any:
        if params is None:
            raise ValueError("with_residual needs update(grads, state, params)")
        tree, leaves = jax.tree.structure(params), self._leaves(params)
        apart, joined = tree.flatten_up_to, lambda x: jax.tree.unflatten(tree, x)
        residual = apart(state.residual)
        grads = [x.gradient(g) for x, g in zip(leaves, apart(updates), strict=True)]
        seen = [x.seen(r) for x, r in zip(leaves, residual, strict=True)]
        steps, inner = self.optimizer.update(joined(grads), state.inner, joined(seen))
        key = jax.random.fold_in(jax.random.key(self.seed), state.count)
        results = [
            x.moved(r, step, jax.random.fold_in(key, i))
            for i, (x, r, step) in enumerate(
                zip(leaves, residual, apart(steps), strict=True)
            )
        ]
        changes, residual, lost = ([*x] for x in zip(*results, strict=True))
        count, saturated = state.count + 1, jnp.asarray(sum(lost), jnp.int32)
        after = ResidualState(joined(residual), inner, count, saturated)
        return joined(changes), after

    def _leaves(self, params: PyTree) -> list["_Leaf"]:
        flat, tree = jax.tree.flatten(params)
        mask = [True] * len(flat)
        if self.mask is not None:
            mask = tree.flatten_up_to(self.mask)
        units = self.units(params) if callable(self.units) else self.units
        worth = [1.0] * len(flat) if units is None else tree.flatten_up_to(units)
        return [
            _Leaf(x, bool(learns) and _can_learn(x), jnp.asarray(unit, jnp.float32))
            for x, learns, unit in zip(flat, mask, worth, strict=True)
        ]


class _Leaf(NamedTuple):
    """A leaf of the parameters.

    Attributes:
        weight: itself.
        learns: whether the optimiser sees it.
        unit: what one of it is worth.
    """

    weight: Any
    learns: bool
    unit: Any

    @property
    def moves(self) -> bool:
        """Whether it has a residual."""
        return self.learns and jnp.result_type(self.weight) == jnp.int8

    def seen(self, residual: Array | None) -> Any:
        """What the optimiser sees of it."""
        if not self.learns:
            return optax.MaskedNode()
        if residual is None:
            return self.weight
        return (self.weight + _fraction(residual)) * self.unit

    def gradient(self, gradient: Any) -> Any:
        """The gradient for what the optimiser sees."""
        if not self.learns:
            return optax.MaskedNode()
        if not self.moves:
            return gradient
        if gradient is None:
            return jnp.zeros(self.weight.shape, jnp.float32)
        return gradient.astype(jnp.float32) / self.unit

    def moved(
        self, residual: Array | None, step: Any, key: PRNGKeyArray
    ) -> tuple[Any, Array | None, Array | int]:
        """Returns its update, the new residual, and how many weights lost some."""
        if residual is None:
            return (step if self.learns else jnp.zeros_like(self.weight)), None, 0
        change, rest, lost = _moved(self.weight, residual, step / self.unit, key)
        return change, rest, jnp.sum(lost, dtype=jnp.int32)


def _can_learn(leaf: Any) -> bool:
    kind = jnp.result_type(leaf)
    return kind == jnp.int8 or jnp.issubdtype(kind, jnp.floating)


def _fraction(residual: Num[Array, "*dims"]) -> Float[Array, "*dims"]:
    """A residual in units of the weight."""
    if not jnp.issubdtype(residual.dtype, jnp.integer):
        return residual
    return residual * np.float32(2.0 ** -jnp.iinfo(residual.dtype).bits)


def _moved(
    weight: Int[Array, "*dims"],
    residual: Num[Array, "*dims"],
    step: Float[Array, "*dims"],
    key: PRNGKeyArray,
) -> tuple[Array, Array, Array]:
    """Takes a step.

    Returns:
        The change of the weight (int16), the new residual, and where some was lost.
    """
    is_finite = jnp.isfinite(step)
    step = jnp.clip(jnp.where(is_finite, step, 0), -_MOST, _MOST)
    if jnp.issubdtype(residual.dtype, jnp.integer):
        bits = jnp.iinfo(residual.dtype).bits
        fine = _rounded(step * np.float32(2.0**bits), key)
        total = (weight.astype(jnp.int32) << bits) + residual + fine
        nearest = (total + (1 << (bits - 1))) >> bits  # halves go up
        new = jnp.clip(nearest, -LIMIT, LIMIT)
        rest, ends = total - (new << bits), jnp.iinfo(residual.dtype)
        kept = jnp.clip(rest, ends.min, ends.max)
    else:
        # What is below one is added first: beside a weight it would lose bits.
        total = residual + step
        new = jnp.clip(weight + jnp.rint(total).astype(jnp.int32), -LIMIT, LIMIT)
        rest = total - (new - weight)
        kept = jnp.clip(rest, -0.5, 0.5)
    change = (new - weight).astype(jnp.int16)
    return change, kept.astype(residual.dtype), ~is_finite | (rest != kept)


def _rounded(x: Float[Array, "*dims"], key: PRNGKeyArray) -> Int[Array, "*dims"]:
    """Rounds up or down at random, so that x is expected, within 2^-24."""
    size = jnp.abs(x)
    whole = jnp.floor(size)
    # Odd multiples of 2^-24: as often below as above any multiple of 2^-23.
    threshold = jax.random.uniform(key, x.shape, jnp.float32) + np.float32(2.0**-24)
    up = threshold < size - whole
    return jnp.sign(x).astype(jnp.int32) * (whole.astype(jnp.int32) + up)
