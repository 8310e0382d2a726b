"""`jit` for tests of values: compiles in half the time, to slower programs.

`make test` has all programs compiled so; `thorough` is as users have it all the same.
"""

import functools

import jax


jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
thorough = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 3}
)
