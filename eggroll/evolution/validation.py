"""Refuses what cannot work, as early as it can be known, with the fix."""

import math
import numbers
import zlib
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental import multihost_utils
from jaxtyping import Num

from eggroll.evolution import order, reduction, shaping as shapings, sharding
from eggroll.evolution.distributions import Noise
from eggroll.perturbation.rules import Rule


def check_settings(es: Any) -> None:
    """Refuses settings of an `EvolutionStrategy` that cannot work.

    Raises:
        ValueError: for a setting that cannot work; the message says what can.
    """
    check_whole(es, "rank", hint="; rank=None is full rank")
    if callable(es.sigma):
        check_sigma(es.sigma(0), step=0)
    else:
        check_sigma(es.sigma)
    if shapings.needs_pairs(es.shaping) and not es.antithetic:
        raise ValueError(
            "this shaping compares the two members of a pair, so it needs "
            "antithetic=True: or use another, such as shaping.centred_rank"
        )
    known = get_args(Noise)
    if es.noise not in known:
        raise ValueError(f"noise must be one of {', '.join(known)}, got {es.noise!r}")


def check_population(es: Any) -> None:
    """Refuses settings of a `Population` that cannot work.

    Raises:
        ValueError: for a setting that cannot work; the message says what can.
    """
    for name in ("noise_reuse", "chunk_size", "memory_bytes", "fixed_order"):
        check_whole(es, name)
    reduction.check(es.update)
    for pattern, rule in es.rules.items():
        if not isinstance(rule, Rule):
            raise ValueError(
                f"the rule for {pattern!r} must be eggroll.frozen, "
                f"eggroll.low_rank(...) or eggroll.full_rank(), got {rule!r}"
            )
    if not isinstance(es.population, numbers.Integral):
        raise ValueError(f"population must be a whole number, got {es.population!r}")
    population = int(es.population)
    with_pairs = getattr(es, "antithetic", True)
    unit = 2 if with_pairs else 1
    if population < 1 or population % unit:
        can_do_without = " or antithetic=False" if hasattr(es, "antithetic") else ""
        raise ValueError(
            f"population must be positive, and even with antithetic pairs, got "
            f"{population}; use {max(population + 1, unit)}{can_do_without}"
        )
    devices = sharding.devices_of(es.mesh)
    order.check(es, devices, unit)
    if population % (devices * unit):
        raise ValueError(
            f"population must be a multiple of {devices * unit} ({devices} devices"
            f"{', whole pairs on each' if with_pairs else ''}), got {population}; "
            f"use {-(-population // (devices * unit)) * devices * unit}"
        )


def check_whole(es: Any, name: str, *, hint: str = "") -> None:
    """Refuses a setting that is neither None nor a positive whole number.

    Raises:
        ValueError: naming it.
    """
    value = getattr(es, name)
    if value is None:
        return
    if not isinstance(value, numbers.Integral):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}{hint}")


def check_sigma(sigma: Any, step: Any = None) -> None:
    """Refuses a sigma that is no positive number; on a schedule it may be 0.

    Raises:
        ValueError: if it is known (not traced by JAX) and wrong.
    """
    kind = jnp.result_type(sigma) if _is_number(sigma) else jnp.bool
    is_real = jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)
    if not is_real or jnp.ndim(sigma):
        raise ValueError(
            f"sigma must be one number, or a function from step to it, got "
            f"{sigma!r}; for several at once, jax.vmap over it"
        )
    if is_traced(sigma):
        return
    is_ok = 0 < sigma < math.inf
    if not is_ok and (step is None or sigma != 0):
        where = "" if step is None else f" at step {step}"
        raise ValueError(f"sigma must be positive and finite, got {sigma}{where}")


def checked_dtype(dtype: Any) -> np.dtype:
    """Returns the type of gradients.

    Raises:
        ValueError: if it is none of floating-point numbers.
    """
    try:
        known = np.dtype(dtype)
    except TypeError:
        known = None
    if known is None or not jnp.issubdtype(known, jnp.floating):
        raise ValueError(
            f"gradient_dtype must be a floating-point type, such as 'float32', got "
            f"{dtype!r}"
        )
    return known


def checked_step(step: Any) -> Any:
    """Returns the number of a generation, 0 for None.

    Raises:
        ValueError: if it is no integer, or known (not traced by JAX) and out of range.
    """
    if step is None:
        return 0
    if hasattr(step, "__jax_array__"):  # a counter of Flax NNX
        step = jnp.asarray(step)
    is_integer = _is_number(step) and jnp.issubdtype(jnp.result_type(step), jnp.integer)
    is_one = is_integer and not jnp.ndim(step)
    if not is_one or not (is_traced(step) or 0 <= int(step) < 2**31):
        raise ValueError(
            f"step must be a whole number from 0 to 2**31 - 1, got {step!r}"
        )
    return step


def check_index(index: Any, population: int) -> None:
    """Refuses the number of a member that does not exist.

    Raises:
        ValueError: if it is known (not traced by JAX) and out of range, or no integer.
    """
    is_integer = jnp.issubdtype(jnp.result_type(index), jnp.integer)
    known = not is_traced(index)
    if jnp.ndim(index) or not is_integer or (known and not 0 <= index < population):
        raise ValueError(
            f"index must be a whole number from 0 to {population - 1}, got {index}"
        )


def is_traced(x: Any) -> bool:
    """Whether a value is known only when a compiled function runs."""
    return isinstance(x, Tracer)


def check_fitness(result: Any, *, has_aux: bool) -> None:
    """Refuses a loss or fitness function by the shape of its result.

    Args:
        result: what it returns, traced.
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
    if _is_number(result) and jnp.shape(result) == ():
        if jnp.issubdtype(jnp.result_type(result), jnp.complexfloating):
            raise ValueError(
                "a loss or fitness must be a real number, got a complex one; return "
                "its magnitude, or its real part"
            )
        return
    if isinstance(result, tuple):
        fix = "to return more beside it, return (number, aux) and set has_aux=True"
    else:
        fix = "reduce it to a scalar, for example with .mean()"
    raise ValueError(
        f"a loss or fitness must be one number: got {_describe(result)}; {fix}"
    )


def _is_number(x: Any) -> bool:
    """Whether it is a number, or an array of them."""
    return isinstance(x, numbers.Number) or hasattr(x, "dtype")


def _describe(result: Any) -> str:
    shape = getattr(result, "shape", None)
    return f"a {type(result).__name__}" if shape is None else f"shape {shape}"


def check_same(values: Any, name: str) -> None:
    """Refuses numbers of this process where another has others.

    All processes of `jax.distributed` call this, with what is theirs alone.

    Raises:
        ValueError: in all of them, saying which differ.
    """
    if jax.process_count() == 1 or is_traced(values):
        return
    if isinstance(values, jax.Array) and not values.is_fully_addressable:
        return  # one array, of which each process has a part
    crc = np.uint32(zlib.crc32(np.asarray(values).tobytes()))
    found = np.asarray(multihost_utils.process_allgather(crc))
    if others := np.flatnonzero(found != found[0]).tolist():
        raise ValueError(
            f"the {name} of process {others[0]} differs from that of process 0, and "
            f"would be mixed with it: tell all processes the same, such as by "
            f"jax.experimental.multihost_utils.broadcast_one_to_all, or give one array "
            f"that all have parts of (jax.make_array_from_process_local_data)"
        )


def one_per_member(
    values: Any, population: int, name: str = "number"
) -> Num[Any, " population"]:
    """Returns values in a type that can be reckoned with, without a loss.

    Arrays of JAX stay what they are, but for floats shorter than float32 and truth
    values; all else becomes a float64 array of NumPy.

    Raises:
        ValueError: if there is not one number a member.
    """
    if any(isinstance(x, jax.Array) for x in jax.tree.leaves(values)):
        values = jnp.asarray(values)
    else:
        try:
            values = np.asarray(values, np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"there must be one {name} a member, each a number: {error}"
            ) from error
    shape = values.shape
    if shape != (population,):
        raise ValueError(
            f"there must be one {name} a member: expected shape ({population},), got "
            f"{shape}"
        )
    is_float = jnp.issubdtype(values.dtype, jnp.floating)
    is_short = values.dtype == bool or (is_float and values.dtype.itemsize < 4)
    return values.astype(jnp.float32) if is_short else values
