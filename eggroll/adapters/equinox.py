"""Equinox: of a module, the arrays of floating-point numbers are what learns.

As `equinox.filter_value_and_grad` has it. All else (whole numbers, functions, Python's
numbers such as a rate of dropout) is closed over, and None stands for it.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from eggroll.adapters.interface import Opened


def has_objects(params: PyTree, args: tuple, kwargs: dict) -> bool:
    """Whether parameters hold a module; as other arguments, modules are pytrees."""
    del args, kwargs
    return any(map(_is_module, jax.tree.leaves(params, is_leaf=_is_module)))


def opened(
    fn: Callable, params: PyTree, args: tuple, kwargs: dict, wrt: Any = None
) -> Opened:
    """See `eggroll.adapters.opened`.

    Raises:
        ValueError: if `wrt` is given.
    """
    if wrt is not None:
        raise ValueError(
            "wrt chooses among the variables of a module of Flax NNX, and the first "
            "argument holds one of Equinox. Leave wrt out: partition the module with "
            "equinox.partition, or freeze leaves with rules"
        )
    learns, rest = eqx.partition(params, _learns)

    def close(params: PyTree) -> PyTree:
        return eqx.combine(params, rest)

    @functools.wraps(fn, updated=())
    def function(params: PyTree, /, *args: Any, **kwargs: Any) -> tuple[Any, None]:
        return fn(close(params), *args, **kwargs), None

    return Opened(function, learns, args, kwargs, lambda state: None, close)


def _is_module(x: Any) -> bool:
    return isinstance(x, eqx.Module)


def _learns(x: Any) -> bool:
    if isinstance(x, jax.ShapeDtypeStruct):  # of `equinox.filter_eval_shape`
        return jnp.issubdtype(x.dtype, jnp.inexact)
    return eqx.is_inexact_array(x)
