"""What an update costs, by the way in which the sum over members gets to all devices.

Seconds of one device, of three parts: pairs that it draws again (`values` numbers a
second), pairs that it contracts (2·rank operations a weight), and bytes that it sends.
An all-reduce of b bytes over n devices sends 2b(n - 1)/n from each. The model is a few
lines: it tells a way that is ten times as dear from one that is not, and no more.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax.sharding import Mesh

from eggroll.evolution.generation import Generation
from eggroll.evolution.partition import parts
from eggroll.evolution.reduction import group_of
from eggroll.evolution.sharding import AXIS


class Rates(NamedTuple):
    """What one device does in a second.

    Attributes:
        flops: operations of a large product of matrices.
        values: random numbers drawn, as factors.
        links: bytes sent to its neighbours, of the same host or slice.
        network: bytes sent to others; 0: as to neighbours.
    """

    flops: float
    values: float
    links: float
    network: float = 0.0


class Shape(NamedTuple):
    """What an update is made of.

    Attributes:
        weights: parameters that evolve, on one device.
        bytes: that they take there, in their own types.
        products: rank times parameters, on one device: what a pair is contracted to.
        values: random numbers of a pair.
        pairs: of the population.
        devices: over which it is spread.
        group: of these, those with fast links between them.
    """

    weights: float
    bytes: float
    products: float
    values: float
    pairs: float
    devices: int
    group: int


def shape_of(generation: Generation, population: int, mesh: Mesh) -> Shape:
    """What an update of a generation is made of, on a mesh."""
    layouts = [x for x in generation.layouts if not x.is_frozen]
    here = lambda x: math.prod(x.shape) / parts(x, mesh)
    antithetic = dict(generation.settings).get("antithetic", True)
    return Shape(
        weights=sum(map(here, layouts)),
        bytes=sum(jnp.dtype(x.dtype).itemsize * here(x) for x in layouts),
        products=sum(x.rank * here(x) for x in layouts),
        values=sum(x.values for x in layouts),
        pairs=population / 2 if antithetic else population,
        devices=mesh.shape[AXIS],
        group=group_of(mesh),
    )


def of_update(shape: Shape, rates: Rates) -> dict[str, float]:
    """Seconds of an update by each way: reduce, scatter, replay, and mixed.

    `mixed` is there where there are several groups of several devices.
    """
    n, group = shape.devices, shape.group
    network = rates.network or rates.links
    each = 2 * shape.products / rates.flops + shape.values / rates.values

    def one_way(size: float, devices: int, rate: float) -> float:
        """Of a reduce-scatter, or of an all-gather; an all-reduce is both."""
        return size * (devices - 1) / devices / rate

    def through(size: float) -> float:
        """The same for all devices: within each group, then between them."""
        between = one_way(size / group, n // group, network)
        return one_way(size, group, rates.links) + between

    sums, own = 4 * shape.weights, each * shape.pairs / n
    told = one_way(8 * shape.pairs, n, rates.links if group == n else network)
    found = {
        "reduce": own + 2 * through(sums),
        "scatter": own + through(sums) + through(shape.bytes),
        "replay": each * shape.pairs + told,
    }
    if 1 < group < n:
        within = 2 * one_way(sums, group, rates.links)
        found["mixed"] = each * shape.pairs / group + within + told
    return found


def cheapest(costs: Mapping[str, float]) -> str:
    """The way that costs least; of equals the first."""
    return min(costs, key=lambda way: costs[way])


def in_words(costs: Mapping[str, float]) -> str:
    """The costs, least first, as a line of a log."""
    ordered: Sequence[str] = sorted(costs, key=lambda way: costs[way])
    return ", ".join(f"{way} {costs[way]:.3g} s" for way in ordered)
