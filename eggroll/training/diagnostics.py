"""What users of evolution strategies need to see, as scalars; all of it pure JAX."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PyTree

from eggroll.evolution.centring import scaled_down


def of_population(
    fitness: Float[Array, " population"], aux: dict[str, Any]
) -> dict[str, Array]:
    """Statistics of one generation's fitness, over its finite values.

    Args:
        fitness: Of each member.
        aux: What the members told, stacked: `steps` and `metrics` are used.

    Returns:
        `fitness/mean`, `best`, `median`, `worst`, `spread` (standard deviation), `tied`
        (the share of members whose fitness another member has too), `nonfinite` (the
        share that failed), all raw; `samples` (consumed in all), and the mean of each
        of the metrics. The loop adds `fitness/best_ever`, over all generations so far:
        what a lucky member had on the data that it met.
    """
    fitness = fitness.astype(jnp.promote_types(fitness.dtype, jnp.float32))
    finite = jnp.isfinite(fitness)
    order = jnp.sort(jnp.where(finite, fitness, jnp.nan))  # NaN goes last, never tied
    same = order[1:] == order[:-1]
    tied = jnp.pad(same, (0, 1)) | jnp.pad(same, (1, 0))
    steps = aux.get("steps", jnp.ones_like(fitness))
    last = jnp.sum(finite) - 1
    median = order[last // 2] / 2 + order[(last + 1) // 2] / 2
    return {
        "fitness/mean": jnp.mean(fitness, where=finite),
        "fitness/best": jnp.max(fitness, where=finite, initial=-jnp.inf),
        "fitness/median": jnp.where(last < 0, jnp.nan, median),
        "fitness/worst": jnp.min(fitness, where=finite, initial=jnp.inf),
        "fitness/spread": jnp.std(fitness, where=finite),
        "fitness/tied": jnp.mean(tied, dtype=jnp.float32),
        "fitness/nonfinite": 1 - jnp.mean(finite, dtype=jnp.float32),
        "samples": jnp.sum(steps, dtype=jnp.float32),
    } | {name: jnp.mean(value) for name, value in aux.get("metrics", {}).items()}


def of_weights(
    weights: Float[Array, " population"], counted: Bool[Array, " population"]
) -> dict[str, Array]:
    """What shaping made of one generation's fitness.

    Args:
        weights: Of each member.
        counted: Which members count, as `eggroll.shaping.counted` has it.

    Returns:
        `fitness/unusable`, the share of members that count for nothing, because they
        or their partners failed; `shaped/effective`, the share of equally weighted
        members that would average as well, (Σ|w|)² / (N Σw²): small where a few decide
        all; `shaped/largest`, the size of the largest weight.
    """
    sizes = jnp.abs(weights).astype(jnp.promote_types(weights.dtype, jnp.float32))
    near_one, _ = scaled_down(sizes)  # whose squares do not overflow
    squares = jnp.sum(near_one**2)
    square = jnp.mean(near_one) * jnp.sum(near_one)
    return {
        "fitness/unusable": 1 - jnp.mean(counted, dtype=jnp.float32),
        "shaped/effective": square / jnp.where(squares > 0, squares, 1),
        "shaped/largest": jnp.max(sizes),
    }


def agreement(whole: PyTree, half: PyTree) -> Float[Array, ""]:
    """The cosine between the gradients of two halves of the population.

    1 where the gradient is free of noise, 0 where it is nothing else: about s / (1 + s)
    where s is the signal-to-noise ratio (of squared norms) of each half.

    Args:
        whole: The sum of both halves.
        half: One of them.
    """
    other = optax.tree.sub(whole, half)
    product = optax.tree.vdot(half, other)
    cosine = product / (optax.tree.norm(half) * optax.tree.norm(other))
    return jnp.asarray(cosine, jnp.float32)


def of_update(
    old: PyTree, new: PyTree, updates: PyTree, grads: PyTree
) -> dict[str, Array]:
    """How far one update moved the parameters.

    Returns:
        `gradient/norm`; `update/ratio`, the norm of the update relative to that of
        the parameters; `update/lost`, the share of updates that rounding swallowed;
        `update/rms` and `parameters/rms`, root mean squares, the former of what was to
        move, the latter of all parameters before; `update/largest`, of the leaf that
        moves most, the root mean square of its update relative to that of its weights,
        or of all weights where these are larger, and `update/leaf`, its number among
        the leaves; `parameters/largest`, of the leaf of largest weights, their root
        mean square relative to that of all others, and `parameters/leaf`.
    """
    lost = jax.tree.map(
        lambda old, new, update: jnp.sum((old == new) & (update != 0)),
        old,
        new,
        updates,
    )
    wanted = _total(jax.tree.map(lambda update: jnp.sum(update != 0), updates))
    weights, moves = _squares(old), _squares(updates)
    sizes = jnp.asarray([max(x.size, 1) for x in jax.tree.leaves(old)], jnp.float32)
    mean = jnp.sum(weights) / jnp.sum(sizes)
    leaves = moves / jnp.maximum(weights, mean * sizes)
    others = (jnp.sum(weights) - weights) / (jnp.sum(sizes) - sizes)  # of one: NaN
    heights = weights / sizes / others
    return {
        "gradient/norm": optax.tree.norm(grads),
        "update/ratio": optax.tree.norm(updates) / optax.tree.norm(old),
        "update/lost": _total(lost) / jnp.maximum(wanted, 1),
        "update/rms": jnp.sqrt(jnp.sum(moves) / jnp.maximum(wanted, 1)),
        "update/largest": jnp.sqrt(jnp.max(leaves)),
        "update/leaf": jnp.argmax(leaves).astype(jnp.float32),
        "parameters/rms": jnp.sqrt(mean),
        "parameters/largest": jnp.sqrt(jnp.max(heights)),
        "parameters/leaf": jnp.argmax(heights).astype(jnp.float32),
    }


def _squares(tree: PyTree) -> Float[Array, " leaves"]:
    """The sum of the squares of each leaf."""
    square = lambda x: jnp.sum(jnp.square(jnp.asarray(x, jnp.float32)))
    return jnp.stack([square(x) for x in jax.tree.leaves(tree)])


def _total(tree: PyTree) -> Float[Array, ""]:
    return jnp.sum(jnp.asarray(jax.tree.leaves(tree), jnp.float32))
