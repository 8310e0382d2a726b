"""The estimators that every battery of tests runs through, by name."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

import eggroll
from eggroll import EvolutionStrategy, shaping


SIGMA = 0.3
# name: settings
ESTIMATORS: dict[str, dict[str, Any]] = {
    "rank 1, rademacher": {},
    "rank 2, rademacher": {"rank": 2},
    "rank 4, rademacher": {"rank": 4},
    "rank 1, gaussian": {"noise": "gaussian"},
    "rank 2, gaussian": {"noise": "gaussian", "rank": 2},
    "rank 4, gaussian": {"noise": "gaussian", "rank": 4},
    "full rank, rademacher": {"rank": None},
    "full rank, gaussian": {"rank": None, "noise": "gaussian"},
    "without pairs": {"antithetic": False},
    "with rules": {
        "noise": "gaussian",
        "rules": {
            "matrix": eggroll.low_rank(3, sigma_scale=2.0),
            "table": eggroll.full_rank(sigma_scale=0.5),
        },
    },
}
# Of those that differ in numbers alone, one is enough for the fast tests.
SLOW = (
    "rank 2, rademacher",
    "rank 4, rademacher",
    "rank 2, gaussian",
    "full rank, gaussian",
)
each_estimator = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in ESTIMATORS
    ],
)

PARAMS = {
    "matrix": jnp.arange(12.0).reshape(4, 3) / 12,
    "table": jnp.ones((5, 2)),
    "vector": jnp.arange(3.0),
}
SIGNS = jax.tree.map(lambda x: 1.0 - 2 * (jnp.round(7 * x + x.size) % 2), PARAMS)
POPULATION, REPEATS = 16, 512


def make(name: str, population: int, **settings: Any) -> EvolutionStrategy:
    """An estimator of the gradient of fitness as it is."""
    options = {"shaping": shaping.none, **ESTIMATORS[name], **settings}
    return EvolutionStrategy(population, SIGMA, **options)


def sigma(name: str, leaf: str) -> float:
    """The standard deviation that the perturbation of a leaf has to have."""
    rule = ESTIMATORS[name].get("rules", {}).get(leaf)
    return SIGMA * (rule.sigma_scale if rule else 1.0)


def linear(params: dict, slope: dict) -> jax.Array:
    """A fitness whose gradient is `slope`, with each leaf used as models use it."""
    columns = jnp.eye(4) @ params["matrix"]
    rows = params["table"][jnp.arange(5)]
    used = {"matrix": columns, "table": rows, "vector": params["vector"]}
    return jnp.sum(jnp.stack([jnp.sum(used[k] * slope[k]) for k in used]))


SHAPINGS: dict[str, Callable] = {
    "none": shaping.none,
    "zscore": shaping.zscore,
    "centred_rank": shaping.centred_rank,
    "pair_sign": shaping.pair_sign,
    "groups": shaping.groups(4),
    "groups, own spread": shaping.groups(4, spread="group"),
}
WEIGHTS = {
    "random": np.random.default_rng(0).normal(size=POPULATION).astype(np.float32),
    "constant": np.full(POPULATION, 3.7, np.float32),
}


class Facts(NamedTuple):
    """Many generations of an estimator, as NumPy arrays.

    Attributes:
        fitness: (repeats, members).
        members: the parameters of each, written out: (repeats, members, ...).
        grads: by the name of the weights or the shaping: (repeats, ...).
    """

    fitness: np.ndarray
    members: dict[str, np.ndarray]
    grads: dict[str, dict[str, np.ndarray]]


@functools.cache
def facts(name: str) -> Facts:
    """Many generations, compiled once for all tests of them."""
    es = make(name, POPULATION)

    def generation(key: jax.Array) -> Any:
        fitness, generation = es.ask(linear)(PARAMS, key, SIGNS)
        member = lambda i: es.member(generation, PARAMS, i)
        shaped = [
            shaping.apply(s, fitness, antithetic=es.antithetic)
            for s in SHAPINGS.values()
        ]
        rows = jnp.stack([*WEIGHTS.values(), *shaped])
        combine = jax.vmap(es.combine, in_axes=(None, 0))
        members = jax.vmap(member)(jnp.arange(POPULATION))
        return fitness, members, combine(generation, rows)

    keys = jax.random.split(jax.random.key(1), REPEATS)
    run = quick.jit(jax.vmap(generation))
    doubled = lambda x: np.asarray(x, np.float64)
    fitness, members, grads = jax.tree.map(doubled, run(keys))
    named = {
        row: {leaf: g[:, i] for leaf, g in grads.items()}
        for i, row in enumerate([*WEIGHTS, *SHAPINGS])
    }
    return Facts(fitness, members, named)


def squared_errors(name: str, population: int) -> np.ndarray:
    """Of the gradients of many generations."""
    run = make(name, population).value_and_grad(fitness=linear)
    estimate = jax.vmap(lambda key: run(PARAMS, key, SIGNS)[1])
    grads = quick.jit(estimate)(jax.random.split(jax.random.key(1), REPEATS))
    errors = [np.asarray(grads[k] + SIGNS[k], np.float64) ** 2 for k in SIGNS]
    return np.sum([np.sum(e.reshape(REPEATS, -1), axis=1) for e in errors], axis=0)
