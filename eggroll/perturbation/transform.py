"""Runs any JAX function on perturbed arrays.

`perturbed(fn)` traces `fn` as if its perturbed arguments were ordinary arrays, then
evaluates the trace with a rule for each operation that can work with weight and factors
apart. Everything else materialises the array: correct, dearer, and reported to an
observer. The functions that JAX nests (jit, scan, while, cond, checkpoint, custom
derivatives) are entered.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from eggroll.perturbation import arithmetic, control_flow, jaxprs, primitives
from eggroll.perturbation.array import Perturbed
from eggroll.perturbation.flow import flow
from eggroll.perturbation.interpreter import Interpreter, Observer, Use, is_perturbed
from eggroll.perturbation.places import line_of


RULES = {**primitives.RULES, **arithmetic.RULES, **control_flow.RULES}


def perturbed(fn: Callable, *, strict: bool = False) -> Callable:
    """Transforms a function of arrays so that it accepts perturbed arrays.

    Args:
        fn: any JAX function of pytrees of arrays.
        strict: refuse, rather than write out, a low-rank array that `fn` uses in a way
            for which there is no cheap rule.

    Returns:
        A function of the same arguments, any array of which may be a `Perturbed`. It
        returns what `fn` would return for the arrays they stand for, to rounding.

    Raises:
        ValueError: if `strict` and a low-rank array would have to be written out.
    """

    @functools.wraps(fn)
    def run(*args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args, is_leaf=is_perturbed)
        is_array = [is_perturbed(x) or _is_arraylike(x) for x in leaves]

        def flat(arrays: list[Any]) -> Any:
            given = iter(arrays)
            full = [
                next(given) if a else x for a, x in zip(is_array, leaves, strict=True)
            ]
            return fn(*jax.tree.unflatten(tree, full))

        arrays = [x for a, x in zip(is_array, leaves, strict=True) if a]
        jaxpr, out_tree = jaxprs.trace(flat, [_plain(x) for x in arrays])
        outs = evaluate(jaxpr, arrays, refuse if strict else ignore)
        return jax.tree.unflatten(out_tree, outs)

    return run


def evaluate(
    jaxpr: ClosedJaxpr, args: Sequence[Any], observe: Observer, params: int = 0
) -> list[jax.Array]:
    """Evaluates a jaxpr with perturbed arguments; materialises its results.

    Args:
        jaxpr: a function.
        args: its arguments.
        observe: is told of every use of one that is perturbed.
        params: how many of the arguments are parameters: those that are not perturbed
            are the same for all members, which others may not be.
    """
    is_leaf = [is_perturbed(x) for x in args]
    is_data = [not leaf and i >= params for i, leaf in enumerate(is_leaf)]
    seen = flow(jaxpr, is_leaf, is_data)
    return Interpreter(RULES, observe, seen).finish(
        jaxpr, jaxprs.as_traced(jaxpr, args)
    )


def ignore(
    use: Use,
    leaf: Perturbed,
    primitive: str,
    dims: Sequence[int],
    calls: Sequence[JaxprEqn] = (),
) -> None:
    """The observer that does nothing."""


def refuse(
    use: Use,
    leaf: Perturbed,
    primitive: str,
    dims: Sequence[int],
    calls: Sequence[JaxprEqn] = (),
) -> None:
    """The observer that makes writing out a low-rank array an error."""
    if use is Use.WRITE_OUT:
        line = line_of(calls)
        raise ValueError(
            f"strict: `{primitive}` needs the low-rank leaf {', '.join(leaf.paths)} "
            f"of shape {leaf.shape} written out for every member"
            f"{f' ({line})' if line else ''}; give it a rule (full_rank() or frozen), "
            f"or allow it with strict=False"
        )


def _is_arraylike(x: Any) -> bool:
    return isinstance(x, (jax.Array, jax.ShapeDtypeStruct)) or hasattr(x, "__array__")


def _plain(x: Any) -> Any:
    """The abstract array that `x` stands for."""
    return jaxprs.abstract(x, x.shape)
