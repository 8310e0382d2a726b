"""Evaluates a whole population: spread over devices, chunk after chunk."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int

from eggroll import sharding
from eggroll.evaluation import Trace


def evaluate_population(
    some: Callable[..., list[Array]],
    traced: Trace,
    generation: Any,
    size: int,
    *,
    mesh: Mesh | None,
    chunk: int,
    multiple: int = 1,
) -> list[Array]:
    """Evaluates every member, some at a time.

    Args:
        some: `(traced, generation, index, data) -> outputs` of the members `index`,
            with a leading member dimension; `data` has a row for each of them where
            it is mapped.
        traced: the function, its parameters, and its data with a row a member or, where
            there are fewer, a row for each group of consecutive members.
        generation: a pytree that `some` needs and all devices share.
        size: members in all.
        mesh: of devices; None for one.
        chunk: members at a time on each device.
        multiple: a chunk is a multiple of it: 2 keeps pairs together.
    """
    inputs = list(zip(traced.data, traced.is_mapped, strict=True))
    is_row = [mapped and x.shape[0] == size for x, mapped in inputs]
    own = [x for x, row in zip(traced.data, is_row, strict=True) if row]
    common = [None if row else x for x, row in zip(traced.data, is_row, strict=True)]

    def local(shared: tuple, rows: tuple) -> list[Array]:
        params, common, generation = shared
        here = traced._replace(params=params)

        def part(rows: tuple) -> list[Array]:
            index, own = rows
            given = iter(own)
            data = [
                next(given) if row else _of_members(x, mapped, index, size)
                for x, row, mapped in zip(common, is_row, traced.is_mapped, strict=True)
            ]
            return some(here, generation, index, data)

        return sharding.map_chunks(part, rows, chunk, multiple)

    shared = (traced.params, common, generation)
    return sharding.spread(local, mesh)(shared, (jnp.arange(size), own))


def _of_members(
    x: Array, mapped: bool, index: Int[Array, " members"], size: int
) -> Array:
    """What some members read of an argument: all of it, or the row of their group."""
    return x[index // (size // x.shape[0])] if mapped else x
