"""Compiles functions that mark with optimisation barriers what should stay in memory.

XLA's CPU backend (its other backends need no telling) forgets the barriers before it
fuses, and then computes whole chains of elementwise operations anew in each of their
consumers; and it splits sums of products into two kernels. Without these two passes a
population of integer models is evaluated at more than twice the speed, with the same
results; where XLA cannot do without them, it goes the usual, slower way.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax


KEEPING: dict[str, Any] = {
    "xla_disable_hlo_passes": "cse_barrier_expander,tree_reduction_rewriter"
}


def jit(function: Callable, **options: Any) -> Callable:
    """Compiles like `jax.jit`, keeping barriers where XLA can."""
    usual = jax.jit(function, **options)
    if jax.default_backend() != "cpu":
        return usual
    keeping = jax.jit(function, compiler_options=KEEPING, **options)
    failed = False

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        nonlocal failed
        if not failed:
            try:
                return keeping(*args)
            except jax.errors.JaxRuntimeError:  # of XLA, for one, as of JAX 0.12
                failed = True  # a mistake that is the function's own comes up again
        return usual(*args)

    return call
