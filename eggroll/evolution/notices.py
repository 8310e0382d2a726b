"""Warnings about values, which inside `jax.jit` are known only when it runs."""

import contextlib
import warnings
from collections.abc import Iterator

import jax
from jax.core import Tracer
from jaxtyping import Array, Bool


@contextlib.contextmanager
def failures_allowed() -> Iterator[None]:
    """Members may fail: that is counted, and no error where NaN or infinity is one."""
    with jax.debug_nans(False), jax.debug_infs(False):
        yield


def warn_if(condition: Bool[Array, ""], message: str) -> None:
    """Warns when `condition` turns out true, with a `RuntimeWarning`.

    In a compiled function this takes a callback, which would keep the function out of
    JAX's persistent compilation cache; where that is in use, no warning is given.
    """
    if not isinstance(condition, Tracer):
        _warn(bool(condition), message=message)
    elif getattr(jax.config, "jax_compilation_cache_dir") is None:  # noqa: B009
        call = lambda: jax.debug.callback(_warn, condition, message=message)
        jax.lax.cond(condition, call, lambda: None)


def _warn(condition: bool, *, message: str) -> None:
    if condition:
        warnings.warn(message, RuntimeWarning, stacklevel=3)
