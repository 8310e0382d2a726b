"""Walking jaxprs, for tests about what a function does not compute."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.extend import core


def variables(jaxpr: core.Jaxpr) -> Iterator:
    """Every variable of a jaxpr and of those inside it, its constants included."""
    yield from jaxpr.invars
    yield from jaxpr.constvars
    for equation in jaxpr.eqns:
        yield from equation.outvars
        for inner in _inside(equation):
            yield from variables(inner)


def equations(jaxpr: core.Jaxpr | core.ClosedJaxpr) -> Iterator:
    """Every equation of a jaxpr and of those inside it."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        for inner in _inside(equation):
            yield from equations(inner)


def _inside(equation) -> Iterator[core.Jaxpr]:
    values = list(equation.params.values())
    for parameter in jax.tree.leaves(values, is_leaf=_is_jaxpr):
        if _is_jaxpr(parameter):
            yield getattr(parameter, "jaxpr", parameter)


def _is_jaxpr(x) -> bool:
    return isinstance(x, core.Jaxpr | core.ClosedJaxpr)


def floating_point(function, *args) -> list[str]:
    """The floating-point values that appear while computing function(*args)."""
    closed = jax.make_jaxpr(function)(*args)
    return [
        str(variable.aval)
        for variable in variables(closed.jaxpr)
        if jnp.issubdtype(getattr(variable.aval, "dtype", jnp.int32), jnp.inexact)
    ]
