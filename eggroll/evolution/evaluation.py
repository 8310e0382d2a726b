"""Goes through a population: spread over devices, chunk after chunk."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Num, PRNGKeyArray

from eggroll.evolution import chunks, noise as noises, order, reduction, sharding
from eggroll.evolution.generation import Generation
from eggroll.evolution.members import rows_of_members
from eggroll.evolution.tracing import Trace
from eggroll.perturbation.layout import Layout


# Evaluates some members of a generation, by their numbers, on data with a row for each.
Some = Callable[
    [Trace, Generation, Int[Array, " members"], Sequence[Array]], list[Array]
]


def over_members(
    some: Some,
    traced: Trace,
    generation: Generation,
    *,
    population: int,
    chunk: int,
    multiple: int,
    mesh: Mesh | None,
    units: int | None,
) -> list[Array]:
    """Returns the results of all members, with a leading member dimension.

    Args:
        some: evaluates a chunk of them.
        traced: the function.
        generation: whose noise they use.
        population: how many there are.
        chunk: how many a device evaluates at once.
        multiple: of which the size of a chunk is one.
        mesh: over which they are spread; None for one device.
        units: into how many they are cut for a fixed order; None: into chunks alone.
    """
    # Data with a row for each member is divided as the members are, over devices and
    # chunks; rows of groups are few, and looked up where they are read.
    inputs = list(zip(traced.data, traced.is_mapped, strict=True))
    is_row = [mapped and x.shape[0] == population for x, mapped in inputs]
    own = [x for x, row in zip(traced.data, is_row, strict=True) if row]
    common = [None if row else x for x, row in zip(traced.data, is_row, strict=True)]

    def local(shared: tuple, rows: tuple) -> list[Array]:
        params, common, generation = shared
        here = traced._replace(params=params)

        def part(rows: tuple) -> list[Array]:
            index, own = rows
            given = iter(own)
            data = [
                next(given) if row else rows_of_members(x, mapped, index, population)
                for x, row, mapped in zip(common, is_row, traced.is_mapped, strict=True)
            ]
            return some(here, generation, index, data)

        some_chunks = lambda rows: chunks.map_chunks(part, rows, chunk, multiple)
        if units is None:
            return some_chunks(rows)
        found = order.in_units(some_chunks, rows, units // sharding.devices_of(mesh))
        return [x.reshape(-1, *x.shape[2:]) for x in found]

    shared = (traced.params, common, generation)
    return sharding.spread(local, mesh)(shared, (_numbers(population, chunk), own))


def sum_over_pairs(
    contract: Callable[[Layout, Sequence[Array], Num[Array, " pairs"]], Array],
    layouts: Sequence[Layout],
    key: PRNGKeyArray,
    weights: Num[Array, " pairs"],
    *,
    distribution: str,
    chunk: int,
    mesh: Mesh | None,
    way: reduction.Way,
    units: int | None,
) -> list[Array | None]:
    """Sums w_p times the product of the factors of pair p, for each leaf.

    Args:
        contract: does it for one leaf and some pairs.
        layouts: of the leaves.
        key: of the generation, whose noise is drawn again.
        weights: of the pairs; without pairs, of the members.
        distribution: of the factors' entries.
        chunk: how many pairs a device redraws at once.
        mesh: over which they are spread; None for one device.
        way: how the sum gets to all devices.
        units: into how many they are cut for a fixed order; None: into chunks alone.

    Returns:
        The sums; None for a frozen leaf.
    """

    def local(key: PRNGKeyArray, rows: tuple[Array, Array]) -> list[Any]:
        def part(rows: tuple[Array, Array], counts: Array) -> list[Any]:
            pairs, w = rows
            w = w * counts.astype(w.dtype)
            drawn = noises.draw(layouts, key, pairs, distribution)
            drawn = sharding.replicated(drawn, mesh)
            return [
                None
                if layout.is_frozen
                else sharding.constrained(
                    contract(layout, factors, w), mesh, layout.spec
                )
                for layout, factors in zip(layouts, drawn, strict=True)
            ]

        some_chunks = lambda rows: chunks.sum_chunks(part, rows, chunk)
        if units is None:
            return some_chunks(rows)
        found = order.in_units(some_chunks, rows, units // sharding.devices_of(mesh))
        return [x if x is None else order.tree_sum(x) for x in found]

    rows = (_numbers(weights.shape[0], chunk), weights)
    spread = reduction.over_devices
    return spread(local, layouts, mesh, way, in_order=units is not None)(key, rows)


def _numbers(count: int, chunk: int) -> Int[Any, " count"]:
    """The numbers of all members, or of all pairs.

    Where they go at once, compilers know them: what is drawn for the evaluation of a
    generation and for its update is then one computation to XLA, and done once.
    """
    return np.arange(count, dtype=np.int32) if chunk >= count else jnp.arange(count)
