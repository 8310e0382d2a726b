"""Compiles functions that mark with optimisation barriers what should stay in memory.

XLA's CPU backend (its other backends need no telling) forgets the barriers before it
fuses, and then computes whole chains of elementwise operations anew in each of their
consumers; and it splits sums of products into two kernels. Without these two passes a
population of integer models is evaluated at more than twice the speed, with the same
results; where XLA cannot do without them, it goes the usual, slower way, and says so.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax

from eggroll.evolution import compilers


KEEPING: dict[str, Any] = {
    "xla_disable_hlo_passes": "cse_barrier_expander,tree_reduction_rewriter"
}


def jit(function: Callable, **options: Any) -> Callable:
    """Compiles like `jax.jit`, keeping barriers where XLA can.

    Warns:
        UserWarning: it cannot.
    """
    frugal = compilers.frugal()
    usual = jax.jit(function, compiler_options=frugal, **options)
    if jax.default_backend() != "cpu":
        return usual
    keeping = jax.jit(function, compiler_options=frugal | KEEPING, **options)
    failed = False

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        nonlocal failed
        if not failed:
            try:
                return keeping(*args)
            except jax.errors.JaxRuntimeError as error:  # of XLA, for one
                failed = True  # a mistake that is the function's own comes up again
                warnings.warn(
                    f"XLA does not compile {function.__qualname__} with its barriers "
                    "kept: integers take the usual way, with the same results at about "
                    f"half the speed ({str(error).partition(chr(10))[0]})",
                    stacklevel=2,
                )
        return usual(*args)

    return call
