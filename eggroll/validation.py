"""Refuses what cannot work, as early as it can be known, with the fix."""

import numbers
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from eggroll import sharding
from eggroll.noise import DISTRIBUTIONS
from eggroll.plan import Rule


def check_settings(es: Any) -> None:
    """Refuses settings of an `EvolutionStrategy` that cannot work.

    Raises:
        ValueError: for a setting that cannot work; the message says what can.
    """
    for name in ("population", "rank", "reuse", "chunk", "memory"):
        value = getattr(es, name)
        if value is not None and not isinstance(value, numbers.Integral):
            raise ValueError(f"{name} must be a whole number, got {value!r}")
    if es.population < 1 or (es.antithetic and es.population % 2):
        least = 2 if es.antithetic else 1
        raise ValueError(
            f"population must be positive, and even with antithetic pairs, got "
            f"{es.population}; use {max(es.population + 1, least)} or antithetic=False"
        )
    if es.rank is not None and es.rank < 1:
        raise ValueError(
            f"rank must be at least 1, got {es.rank}; rank=None is full rank"
        )
    if not callable(es.sigma) and not es.sigma > 0:
        raise ValueError(f"sigma must be positive, got {es.sigma}")
    if es.noise not in DISTRIBUTIONS:
        raise ValueError(
            f"noise must be one of {', '.join(DISTRIBUTIONS)}, got {es.noise!r}"
        )
    for name in ("reuse", "chunk", "memory"):
        value = getattr(es, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    for pattern, rule in es.rules.items():
        if not isinstance(rule, Rule):
            raise ValueError(
                f"the rule for {pattern!r} must be eggroll.frozen, "
                f"eggroll.low_rank(...) or eggroll.full_rank(), got {rule!r}"
            )
    _check_devices(es)


def _check_devices(es: Any) -> None:
    devices = sharding.devices_of(es.mesh)
    unit = devices * (2 if es.antithetic else 1)
    if es.population % unit:
        raise ValueError(
            f"population must be a multiple of {unit} ({devices} devices"
            f"{', whole pairs on each' if es.antithetic else ''}), got "
            f"{es.population}; use {-(-es.population // unit) * unit}"
        )


def check_fitness(result: Any, *, has_aux: bool) -> None:
    """Refuses a fitness function by the shape of its result.

    Args:
        result: what it returns, as abstract arrays.
        has_aux: whether it should return `(number, aux)`.

    Raises:
        ValueError: if the result is no number.
    """
    if has_aux:
        if not (isinstance(result, tuple) and len(result) == 2):
            raise ValueError(
                f"with has_aux=True the function must return (number, aux), got "
                f"{_describe(result)}"
            )
        result = result[0]
    if getattr(result, "shape", None) == ():
        return
    if isinstance(result, tuple):
        fix = "to return more beside it, return (number, aux) and set has_aux=True"
    else:
        fix = "reduce it to a scalar, for example with .mean()"
    raise ValueError(
        f"fitness must be one number a member: got {_describe(result)}; {fix}"
    )


def _describe(result: Any) -> str:
    shape = getattr(result, "shape", None)
    return f"a {type(result).__name__}" if shape is None else f"shape {shape}"


def one_per_member(
    values: Any, population: int, name: str = "number"
) -> Float[Array, " population"]:
    """Returns values as float32.

    Raises:
        ValueError: if there is not one a member.
    """
    shape = jnp.shape(values)
    if shape != (population,):
        raise ValueError(
            f"there must be one {name} a member: expected shape ({population},), got "
            f"{shape}"
        )
    return jnp.asarray(values, jnp.float32)
