"""Which way of the update is cheapest here, by rates that are measured once."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from eggroll.config.schema import Config
from eggroll.evolution import costs, noise, sharding
from eggroll.evolution.costs import Rates
from eggroll.evolution.generation import Generation
from eggroll.evolution.sharding import AXIS
from eggroll.perturbation.layout import Layout
from eggroll.perturbation.rules import LowRank
from eggroll.training import instantiate, processes
from eggroll.training.experiment import Experiment, prepare
from eggroll.training.state import Purpose, key_for


_WIDTH, _PAIRS = 512, 256  # of what is timed
_SENT = 2**20  # numbers


def chosen(config: Config, report: Callable[[str], None]) -> Config:
    """The settings with the cheapest way of the update in place of `auto`."""
    if config.mesh.update != "auto":
        return config
    way, why = cheapest(prepare(config))
    report(f"mesh.update: {way}, as {why}")
    mesh = dataclasses.replace(config.mesh, update=way)  # pyrefly: ignore[bad-argument-type]
    return dataclasses.replace(config, mesh=mesh)


def cheapest(experiment: Experiment) -> tuple[str, str]:
    """The way that costs least, and why, in words; all processes find the same."""
    strategy, mesh = experiment.algorithm.strategy, instantiate.mesh(experiment.config)
    if strategy is None or mesh.shape[AXIS] == 1:
        return "reduce", "there is one device to sum them"
    shape = costs.shape_of(_generation(experiment), strategy.population, mesh)
    timed = measured(mesh)  # by all processes, of which the first one's clock counts
    rates = Rates(*processes.by_first(lambda: list(timed)))
    found = costs.of_update(shape, rates)
    spelt = ", ".join(f"{k} {v:.2g}" for k, v in rates._asdict().items() if v)
    why = f"{costs.in_words(found)} (measured: {spelt} a second)"
    return costs.cheapest(found), why


def measured(mesh: Mesh) -> Rates:
    """Times a contraction, a draw and an all-reduce, each on all devices at once."""
    layout = Layout("w", (_WIDTH, _WIDTH), "float32", LowRank(), (), (0,), (1,))
    pairs, key = jnp.arange(_PAIRS), jax.random.key(0)
    draw = lambda key, pairs: noise.draw([layout], key, pairs, "rademacher")
    thin = jnp.ones((_PAIRS, _WIDTH))
    product = lambda a, b: jnp.einsum("pa,pb->ab", a, b)
    numbers = jax.jit(
        lambda: jnp.zeros((mesh.shape[AXIS], _SENT)),
        out_shardings=NamedSharding(mesh, PartitionSpec(AXIS)),
    )()
    total = sharding.spread(
        lambda _, x: x[0],
        mesh,
        lambda x: jax.lax.psum(x, AXIS),
        results=PartitionSpec(),
    )
    n = mesh.shape[AXIS]
    sent = 2 * 4 * _SENT * (n - 1) / n
    return Rates(
        flops=2 * _PAIRS * _WIDTH**2 / _seconds(product, thin, thin),
        values=_PAIRS * layout.values / _seconds(draw, key, pairs),
        links=sent / _seconds(functools.partial(total, 0), numbers),
    )


def _seconds(function: Callable[..., Any], *args: Any) -> float:
    """The least time that a compiled call takes, of a few.

    What is computed from are its arguments: of constants, a compiler would know it.
    """
    run, times = jax.jit(function), []
    jax.block_until_ready(run(*args))
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(run(*args))
        times.append(time.perf_counter() - start)
    return min(times)


def _generation(experiment: Experiment) -> Generation:
    """What a generation of the run is drawn from, in shapes."""
    config, task, algorithm = experiment
    strategy = algorithm.strategy
    assert strategy is not None

    def member(params, data, carry, *, key):
        return task.evaluate(params, data, carry, key)

    def plan(params: PyTree, data: PyTree) -> Generation:
        key = key_for(jax.random.key(config.seed), Purpose.NOISE)
        params = instantiate.precise(config, params)
        carry = task.initial_carry(strategy.population)
        described = strategy.generation(member, in_axes=(task.data_axes, 0))
        return described(params, key, data, carry)

    return jax.eval_shape(plan, task.params_like(), task.batch_like())
