"""Which leaves of a model learn, and what stands for the gradient of those that do not.

A gradient has the structure and the types of the parameters. Leaves that are no
floating-point arrays (whole numbers, functions) have none: None stands there, as with
Equinox. Floating-point leaves that do not evolve (frozen, or unused) have zeros.
Complex ones have to be frozen. Whole numbers that a rule calls `quantised` evolve, with
a gradient of floats.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from eggroll import adapters
from eggroll.perturbation.layout import is_array, named_leaves
from eggroll.perturbation.rules import Frozen, Rule, Rules, can_evolve


def trainable(params: PyTree, rules: Mapping[str, Rule] | None = None) -> PyTree:
    """Tells which leaves are evolved, as a mask for optimisers.

    The gradient of a frozen leaf is zero, but that does not keep it where it is: decay
    of weights, for one, moves it. So wrap such an optimiser:

        optax.masked(optax.adamw(1e-3), eggroll.trainable(params, es.rules))

    Args:
        params: a pytree; abstract arrays will do. Of a module of Flax NNX, its
            `nnx.state(module, nnx.Param)`.
        rules: as in `EvolutionStrategy`.

    Returns:
        A pytree like `params` of truth values: whether a leaf is an array of
        floating-point numbers (or a float, if not of an Equinox module), or of whole
        numbers that a rule calls `quantised`, and no rule freezes it.

    Raises:
        ValueError: if a pattern matches no leaf.
    """
    named, ordered = named_leaves(params), Rules(rules or {})
    ordered.check(path for path, _ in named)
    opened = adapters.opened(lambda params: params, params).params
    evolving = {
        path
        for path, x in named_leaves(opened)
        if is_floating(x) or (is_array(x) and can_evolve(x.dtype, ordered.find(path)))
    }
    mask = [
        path in evolving and not isinstance(ordered.find(path), Frozen)
        for path, _ in named
    ]
    return jax.tree.unflatten(jax.tree.structure(params), mask)


def _is_number(x: Any) -> bool:
    return is_array(x) or isinstance(x, np.generic | int | float)


def is_floating(x: Any) -> bool:
    """Whether a leaf can evolve: an array of floating-point numbers, or a float."""
    if isinstance(x, np.generic):
        x = np.asarray(x)
    is_float = is_array(x) and jnp.issubdtype(x.dtype, jnp.floating)
    return is_float or isinstance(x, float)


def filled(grads: PyTree, params: PyTree) -> PyTree:
    """Puts zeros where a gradient is None, for leaves that are no floats.

    Optimisers that were initialised with all of `params`, and `optax.apply_updates`,
    expect a gradient for every leaf; `equinox.apply_updates` does not.

    Args:
        grads: a gradient, as from `EvolutionStrategy`.
        params: what it is the gradient of.
    """
    fill = lambda g, p: jnp.zeros_like(p) if g is None and _is_number(p) else g
    return jax.tree.map(fill, grads, params, is_leaf=lambda x: x is None)
