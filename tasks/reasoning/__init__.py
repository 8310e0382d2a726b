"""Language models learn to reason, from rewards that a program can check.

Nothing is imported here: the workers that score completions import this package, and
JAX would cost each of them seconds.
"""
