"""Which adapter opens a call."""

import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import PyTree

from eggroll.adapters.interface import Each, Opened


# By the library that has to be loaded.
_ADAPTERS = {"flax.nnx": "nnx", "equinox": "equinox"}


def opened(
    fn: Callable,
    params: PyTree,
    args: tuple[PyTree, ...] = (),
    kwargs: dict[str, PyTree] | None = None,
    wrt: Any = None,
) -> Opened:
    """Opens the call `fn(params, *args, **kwargs)` on objects of whatever library.

    Args:
        fn: the function.
        params: its first argument, or a tuple of several that `fn` takes as one.
        args: those that follow.
        kwargs: those by name.
        wrt: for modules of Flax NNX, which of the variables of `params` may be
            perturbed, as a filter of NNX: `nnx.Param` unless given; `Each` of several
            where they differ.

    Raises:
        ValueError: if `wrt` is given without an NNX module to choose from, or chooses
            nothing.
    """
    kwargs = kwargs or {}
    for library, name in _ADAPTERS.items():
        if library in sys.modules:
            adapter = importlib.import_module(f"eggroll.adapters.{name}")
            if adapter.has_objects(params, args, kwargs):
                return adapter.opened(fn, params, args, kwargs, wrt)
    if wrt is not None:
        raise ValueError(
            "wrt chooses among the variables of a module of Flax NNX, and the first "
            f"argument holds none: it is a {type(params).__name__}. Leave wrt out, and "
            "freeze leaves of other pytrees with rules"
        )

    @functools.wraps(fn, updated=())
    def function(params: PyTree, /, *args: Any, **kwargs: Any) -> tuple[Any, None]:
        return fn(params, *args, **kwargs), None

    return Opened(function, params, args, kwargs, lambda state: None, lambda same: same)


def positions(argnums: Any) -> tuple[int | tuple[int, ...], Any]:
    """Separates `argnums`, as `nnx.grad` takes them, into positions and filters.

    Args:
        argnums: a position, an `nnx.DiffState(position, filter)`, or several of these.

    Returns:
        A position or a tuple of them, as `jax.grad` takes them, and the `wrt` that
        `opened` takes: None where there is no filter.
    """
    several = argnums if isinstance(argnums, Sequence) else (argnums,)
    numbers = tuple(getattr(one, "argnum", one) for one in several)
    filters = Each(getattr(one, "filter", None) for one in several)
    if not isinstance(argnums, Sequence):
        return numbers[0], filters[0]
    return numbers, None if all(one is None for one in filters) else filters
