"""`jit` for tests of values: compiles in half the time, to slower programs."""

import functools

import jax


jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
