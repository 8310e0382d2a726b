"""Strategies as pytrees: what JAX may trace of one is its sigma."""

import dataclasses
from typing import Any

import jax
from jax.core import Tracer


def plain_number(x: Any) -> Any:
    """A number of Python for an array of one that is known: arrays have no hash."""
    is_known = isinstance(x, jax.Array) and not isinstance(x, Tracer)
    return float(x) if is_known and not x.ndim else x


def register(strategy: type) -> None:
    """Makes a class of strategies a pytree; all but a sigma that is a number is static.

    So a strategy can be an argument of a compiled function, and be mapped over.
    """

    def flatten(self: Any) -> tuple[tuple, tuple]:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        has_number = "sigma" in fields and not callable(fields["sigma"])
        numbers = (fields.pop("sigma"),) if has_number else ()
        return numbers, tuple(fields.items())

    def unflatten(fields: tuple, numbers: tuple) -> Any:
        # Not by the constructor: JAX puts anything where numbers were.
        self = object.__new__(strategy)
        for name, value in (*fields, *zip(("sigma",), numbers, strict=False)):
            object.__setattr__(self, name, plain_number(value))
        return self

    jax.tree_util.register_pytree_node(strategy, flatten, unflatten)
