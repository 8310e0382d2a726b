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
        for parameter in jax.tree.leaves(
            list(equation.params.values()), is_leaf=_is_jaxpr
        ):
            if isinstance(parameter, core.ClosedJaxpr):
                yield from variables(parameter.jaxpr)
            elif isinstance(parameter, core.Jaxpr):
                yield from variables(parameter)


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
