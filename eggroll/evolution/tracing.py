"""Traces a user's function, once, for one member of a population."""

import contextlib
import numbers
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jaxtyping import Array, PyTree

from eggroll.perturbation import jaxprs, meshes
from eggroll.perturbation.layout import is_array


class Results(NamedTuple):
    """How the results of a trace become what the function returned.

    Attributes:
        tree: the structure of what the function returned.
        rest: its leaves that are no arrays (a string, a function), with None for each
            array.
        is_array: which leaves are.
    """

    tree: Any
    rest: list[Any]
    is_array: list[bool]

    def arranged(self, arrays: Iterable[Any]) -> PyTree:
        """Returns what the function returned, with these for its arrays."""
        given = iter(arrays)
        leaves = zip(self.rest, self.is_array, strict=True)
        return jax.tree.unflatten(
            self.tree, [next(given) if is_array else x for x, is_array in leaves]
        )


class Trace(NamedTuple):
    """A function of parameters and data, traced for one member.

    Attributes:
        jaxpr: its arguments are the arrays of the parameters, then those of the data,
            then the member's key if `has_key`.
        results: how its results are arranged.
        params: the arrays of the parameters.
        data: the arrays of the data, with the member dimension where `is_mapped`.
        is_mapped: which arrays of the data have one row a member or a group.
        has_key: whether the function takes a key.
    """

    jaxpr: ClosedJaxpr
    results: Results
    params: list[Array]
    data: list[Array]
    is_mapped: list[bool]
    has_key: bool

    def first(self) -> "Trace":
        """The same function with the first array of its result alone."""
        only = Results(jax.tree.structure(0), [None], [True])
        return self._replace(jaxpr=jaxprs.first_result(self.jaxpr), results=only)


def trace(
    fn: Callable,
    params: PyTree,
    args: tuple[PyTree, ...],
    in_axes: Any = None,
    population: int = 1,
    kwargs: dict[str, PyTree] | None = None,
    has_key: bool = False,
    noise: PyTree = None,
) -> Trace:
    """Traces `fn(params, *args, **kwargs)` for one member.

    What is no array (a truth value, a function, a string) reaches `fn` as it is, and so
    it leaves it.

    Args:
        fn: the function.
        params: its first argument, of which the arrays may be perturbed.
        args: those that follow.
        in_axes: for each of `args`, as in `jax.vmap`: None or 0.
        population: how many members there are.
        kwargs: arguments by name, shared by all members.
        has_key: whether to give it a key, by name.
        noise: what the perturbations are made from. Within `jax.shard_map` the
            parameters of a member differ between devices where this does.

    Raises:
        ValueError: if `in_axes` does not fit `args`, or if an array's number of rows
            (one a member or a group) does not divide the population.
    """
    kwargs = kwargs or {}
    leaves, tree = jax.tree.flatten((params, args, kwargs))
    n = len(jax.tree.leaves(params))
    axes = [None] * n + _axes(in_axes, args)
    axes += [None] * (len(leaves) - len(axes))
    # What is no array may decide what is traced (`train=True`): it is closed over, and
    # only arrays become arguments of the jaxpr.
    is_data = [is_array(x) for x in leaves[:n]] + [_is_data(x) for x in leaves[n:]]
    arrays = [_as_array(x) for x, d in zip(leaves, is_data, strict=True) if d]
    mapped = _mapped(leaves, axes, is_data, population)
    n = sum(is_data[:n])
    results = []

    def flat(*values: Any) -> list[Any]:
        given = iter(values)
        full = [next(given) if d else x for d, x in zip(is_data, leaves, strict=True)]
        params, args, kwargs = jax.tree.unflatten(tree, full)
        key = {"key": next(given)} if has_key else {}
        arrays, arrangement = _taken_apart(fn(params, *args, **kwargs, **key))
        results.append(arrangement)
        return arrays

    varying = meshes.varying(noise)
    one = [
        jaxprs.abstract(x, x.shape[m:], varying if i < n else ())
        for i, (x, m) in enumerate(zip(arrays, mapped, strict=True))
    ]
    jaxpr = _jaxpr(flat, one + [_a_key(varying)] * has_key)
    return Trace(jaxpr, results[-1], arrays[:n], arrays[n:], mapped[n:], has_key)


def _mapped(
    leaves: list[Any], axes: list[int | None], is_data: list[bool], population: int
) -> list[bool]:
    """Which of the leaves that are data have rows, which must fit the population."""
    for x, axis in zip(leaves, axes, strict=True):
        if axis is not None:
            _check_rows(x, population)
    return [axis is not None for axis, d in zip(axes, is_data, strict=True) if d]


def _a_key(axes: Iterable[str]) -> Any:
    key = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))
    return jaxprs.abstract(key, (), axes)


def _jaxpr(flat: Callable, arguments: list[Any]) -> ClosedJaxpr:
    with explaining():
        jaxpr, _ = jaxprs.trace(flat, *arguments)
    if jaxprs.has_ordered_effects(jaxpr):
        raise ValueError(
            "the function has an ordered callback (io_callback, debug.print), which "
            "members that are evaluated together cannot have: set ordered=False, or "
            "score outside JAX with es.ask and es.gradient"
        )
    return jaxpr


def _taken_apart(result: PyTree) -> tuple[list[Any], Results]:
    """The arrays of a result, numbers of Python included, and the rest of it."""
    leaves, tree = jax.tree.flatten(result)
    is_array = [hasattr(x, "dtype") or isinstance(x, numbers.Number) for x in leaves]
    kept = [None if a else x for x, a in zip(leaves, is_array, strict=True)]
    arrays = [x for x, a in zip(leaves, is_array, strict=True) if a]
    return arrays, Results(tree, kept, is_array)


@contextlib.contextmanager
def explaining() -> Iterator[None]:
    """Adds a sentence to JAX's own errors about functions that cannot be traced."""
    try:
        yield
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
    ) as error:
        error.add_note(
            "eggroll: the function has to be one that JAX can trace. If it needs "
            "values (Python branches on arrays, NumPy, another framework), score "
            "outside JAX: es.ask evaluates the members, es.gradient learns from their "
            "fitness"
        )
        raise


def _as_array(x: Any) -> Any:
    """An array of JAX, with abstract ones left as they are."""
    return x if isinstance(x, jax.ShapeDtypeStruct) else jnp.asarray(x)


def _is_data(x: Any) -> bool:
    """Whether an argument is an array (or random key), which the trace abstracts."""
    return isinstance(x, jax.Array | np.generic) or is_array(x)


def _axes(in_axes: Any, args: tuple[PyTree, ...]) -> list[int | None]:
    """One entry for each leaf of the arguments: None or 0, as `jax.vmap` reads them."""
    is_none = lambda x: x is None
    in_axes = tuple(in_axes) if isinstance(in_axes, list) else in_axes
    prefix = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
    axes: list[int | None] = []

    def spread(axis: int | None, arg: PyTree) -> None:
        axes.extend([axis] * len(jax.tree.leaves(arg)))

    try:
        jax.tree.map(spread, prefix, args, is_leaf=is_none)
    except ValueError as error:
        raise ValueError(
            f"in_axes must be None, 0, or a tuple with an entry for each of the "
            f"{len(args)} arguments after params, got {in_axes!r}"
        ) from error
    if any(a not in (None, 0) for a in axes):
        raise ValueError(f"in_axes may hold None and 0 only, got {in_axes!r}")
    return axes


def _check_rows(x: Any, population: int) -> None:
    rows = jnp.shape(x)[0] if jnp.ndim(x) else 0
    if rows < 1 or population % rows:
        raise ValueError(
            f"an argument with in_axes=0 needs one row a member, or a number of rows "
            f"(groups) that divides the population of {population}; got shape "
            f"{jnp.shape(x)}"
        )
