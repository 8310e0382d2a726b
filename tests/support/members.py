"""A population made by hand: perturbed arrays, and the arrays they stand for."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import quick
from jax import lax
from jaxprs import variables

import eggroll
from eggroll.perturbation.layout import Layout, is_array


MEMBERS = 7
SIGMA = 0.1


def agree(
    fn: Callable,
    params: Any,
    *args: Any,
    rank: int = 2,
    rules: Mapping[str, eggroll.Rule] | None = None,
    tolerance: float = 1e-5,
    written_out: tuple[str, ...] = (),
) -> eggroll.Coverage:
    """Asserts that `fn` of perturbed parameters is `fn` of the ones they stand for.

    Seven members, under `jit` and `vmap`; the largest error relative to the largest
    result. Asserts too which low-rank leaves are written out: nowhere in the trace is
    there an array with a weight for each member of any other.

    Returns:
        The coverage, for more to be asserted.
    """
    report = eggroll.coverage(fn, params, *args, rank=rank, rules=rules)
    layouts = [leaf.layout for leaf in report.leaves]
    assert report.written_out == written_out
    drawn = draw(layouts)

    def member(drawn: list, args: tuple) -> Any:
        return eggroll.perturbed(fn)(_replace(params, layouts, drawn, _kept), *args)

    def explicit(drawn: list, args: tuple) -> Any:
        return fn(_replace(params, layouts, drawn, _written), *args)

    traced = quick.jit(jax.vmap(member, in_axes=(0, None))).trace(drawn, args)
    one_by_one = lambda drawn, args: lax.map(lambda one: explicit(one, args), drawn)
    expected = quick.jit(one_by_one)(drawn, args)
    outputs = traced.lower().compile()(drawn, args)
    jax.tree.map(lambda x, y: _close(x, y, tolerance), outputs, expected)

    shapes = {getattr(v.aval, "shape", None) for v in variables(traced.jaxpr.jaxpr)}
    for layout in layouts:
        if layout.cols and layout.path not in written_out:
            assert (MEMBERS, *layout.shape) not in shapes, layout.path
    return report


def draw(layouts: list[Layout], members: int = MEMBERS) -> list[tuple[np.ndarray, ...]]:
    """Factors for each leaf, with a leading member dimension; none for frozen ones."""
    generator = np.random.default_rng(0)
    return [
        tuple(
            generator.normal(size=(members, *shape)).astype(np.float32)
            for shape in layout.factor_shapes
        )
        for layout in layouts
    ]


def _replace(params: Any, layouts: list[Layout], drawn: list, make: Callable) -> Any:
    leaves, tree = jax.tree.flatten(params)
    given = zip(layouts, drawn, strict=True)

    def one(weight: Any) -> Any:
        if not is_array(weight):
            return weight
        layout, factors = next(given)
        return make(weight, factors, layout.path) if factors else weight

    return jax.tree.unflatten(tree, [one(x) for x in leaves])


def _kept(weight: Any, factors: tuple, path: str) -> eggroll.Perturbed:
    return eggroll.Perturbed(weight, factors, jnp.float32(SIGMA), (path,))


def _written(weight: Any, factors: tuple, path: str) -> jax.Array:
    product = 1
    for factor in factors:
        product = product * factor
    wide = jnp.asarray(weight, jnp.promote_types(weight.dtype, jnp.float32))
    return (wide + SIGMA * jnp.sum(jnp.asarray(product), -1)).astype(weight.dtype)


def _close(output: jax.Array, expected: jax.Array, tolerance: float) -> None:
    assert output.dtype == expected.dtype
    a, b = (np.asarray(x.astype(jnp.float32)) for x in (output, expected))
    bound = tolerance * np.max(np.abs(b), initial=1e-30, where=np.isfinite(b))
    np.testing.assert_allclose(a, b, rtol=0, atol=bound)
