"""Floats that are equal to the bit on any number of devices.

Sums of floats depend on their order, and products on the shapes in which they are
computed. So the population is cut into units, as many on one device as on many: each
unit is evaluated and summed by one and the same loop body, and the units' sums are
added up in a binary tree, whose upper levels lie between devices (recursive halving and
doubling: as many bytes as a ring's). It takes a device as many sums as it has units.

References:
    Thakur, Rabenseifner, Gropp, "Optimization of Collective Communication Operations in
    MPICH", 2005 (recursive halving and doubling).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, PyTree

from eggroll.evolution import kernels, sharding
from eggroll.evolution.sharding import AXIS


def in_units(function: Callable[[PyTree], PyTree], rows: PyTree, units: int) -> PyTree:
    """Maps a function over equal parts of some rows; results get a leading dimension.

    The compiler is not to know how often the loop turns: of a loop that turns once it
    would make other code.
    """
    size = jax.tree.leaves(rows)[0].shape[0] // units

    def part(i: Array) -> PyTree:
        take = lambda x: jax.lax.dynamic_slice_in_dim(x, i * size, size)
        return function(jax.tree.map(take, rows))

    def turn(i: Array, found: PyTree) -> PyTree:
        return jax.tree.map(lambda all_, one: all_.at[i].set(one), found, part(i))

    (count,) = kernels.hidden([units])
    like = jax.eval_shape(part, jnp.int32(0))
    empty = jax.tree.map(lambda x: jnp.zeros((units, *x.shape), x.dtype), like)
    return jax.lax.fori_loop(0, count.astype(jnp.int32), turn, empty)


def everywhere(
    function: Callable[[Array], Array], mesh: Mesh | None
) -> Callable[[Array], Array]:
    """A function of all members' numbers, which each device computes by itself.

    (Left to the compiler, each would sum its members' numbers first.)
    """
    whole = PartitionSpec()
    alone = lambda _, x: kernels.kept(function(kernels.kept(x)))
    each = sharding.spread(alone, mesh, rows=whole, results=whole)
    return lambda x: each(None, x)


def check(es: Any, devices: int, unit: int) -> None:
    """Refuses a strategy that cannot be evaluated and summed in so many units.

    Raises:
        ValueError: saying what can.
    """
    units = es.fixed_order
    if units is None:
        return
    if units & (units - 1) or units % devices:
        raise ValueError(
            f"fixed_order must be a power of two that the {devices} device(s) of the "
            f"population divide, got {units}"
        )
    if es.population % (units * unit):
        raise ValueError(
            f"population must be a multiple of {units * unit} ({units} units, of which "
            f"each has whole pairs), got {es.population}"
        )
    if es.update != "reduce":
        raise ValueError(
            f"fixed_order is an order of update='reduce', got update={es.update!r}: "
            f"leave one of them out"
        )


def tree_sum(parts: Array) -> Array:
    """The sum over a leading dimension, a power of two, of neighbours first."""
    while parts.shape[0] > 1:
        parts = parts[0::2] + parts[1::2]
    return parts[0]


def all_reduced(x: Array, devices: int) -> Array:
    """The sum over the devices of the population, of neighbours first, on all of them.

    Halving: each round, half of what a device has goes to the one whose number differs
    in one bit, which adds it to its own; then, the other way round, all get the total.
    """
    flat = x.reshape(-1)
    padded = jnp.pad(flat, (0, -flat.size % devices))
    me = jax.lax.axis_index(AXIS)
    bits = [1 << b for b in range(devices.bit_length() - 1)]
    to = lambda part, bit: jax.lax.ppermute(
        part, AXIS, [(i, i ^ bit) for i in range(devices)]
    )
    for bit in bits:
        halves, upper = padded.reshape(2, -1), (me // bit) % 2
        padded = halves[upper] + to(halves[1 - upper], bit)
    for bit in reversed(bits):
        got, upper = to(padded, bit), (me // bit) % 2
        pair = jnp.where(upper, jnp.stack([got, padded]), jnp.stack([padded, got]))
        padded = pair.reshape(-1)
    return padded[: flat.size].reshape(x.shape)
