"""Flax NNX: modules by reference, with shared variables and state that is kept.

What `nnx.grad` does around `jax.grad`. On the way in, all objects of a call (modules,
`Rngs`, metrics, variables) are split, together, so that what they share stays shared.
Inside the function copies are merged, of the trace that is current, and split again
when it has returned. On the way out, what differs then is merged into the originals:
values, new variables (sown ones), and attributes. References are followed through the
indices of a variable or module outside (`outer`) and of its copy (`inner`).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import PyTree

from eggroll.adapters.interface import Each, Opened


# Objects are followed by reference even where a user sets NNX to trees.
_BY_REFERENCE: dict[str, Any] = (
    {"graph": True} if hasattr(nnx, "set_graph_mode") else {}
)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["leaves"],
    meta_fields=["graphs", "paths"],
)
@dataclasses.dataclass(frozen=True)
class Changes:
    """The objects after a call.

    Attributes:
        leaves: for each object its variables, None where one is what it was.
        graphs: for each object what it is besides.
        paths: for each object where its variables are.
    """

    leaves: tuple[tuple[Any, ...], ...]
    graphs: tuple[Any, ...]
    paths: tuple[tuple[Any, ...], ...]


class _Flat(NamedTuple):
    graph: Any
    variables: dict[tuple, Any]


def has_objects(params: PyTree, args: tuple, kwargs: dict) -> bool:
    """Whether a call is given modules or variables by reference.

    Those within an `nnx.State` are a pytree, as for JAX.
    """
    return any(map(_is_object, _leaves((params, args, kwargs))))


def opened(
    fn: Callable, params: PyTree, args: tuple, kwargs: dict, wrt: Any = None
) -> Opened:
    """See `eggroll.adapters.opened`.

    Raises:
        ValueError: if `wrt` is given without a module in `params`, or matches none of
            its variables.
    """
    leaves, tree = jax.tree.flatten((params, args, kwargs), is_leaf=_is_leaf)
    params_tree = jax.tree.structure(params, is_leaf=_is_leaf)
    filters = _filters(params, wrt)
    objects = {i: x for i, x in enumerate(leaves) if _is_object(x)}
    with nnx.split_context() as context:
        split = {i: _split(context, x, i, filters) for i, x in objects.items()}
        outer = context.ref_index
    split = _detached(split)
    n = len(filters)  # leaves of the parameters, which come first
    slots = [*leaves]
    for i, (_, state, *_) in split.items():
        slots[i] = state if i < n else None
    _check(wrt, [x for i, x in objects.items() if i < n], slots[:n])
    opened_params, opened_args, opened_kwargs = jax.tree.unflatten(tree, slots)

    def merged(params: PyTree, rest: list[Any]) -> tuple[list[Any], Any]:
        """What the user handed in, made of copies, and the copies by their index."""
        values = [*params_tree.flatten_up_to(params), *rest]
        with nnx.merge_context() as context:
            for i, (graph, *states) in split.items():
                if i < n:
                    values[i] = context.merge(graph, values[i], *states[1:])
                elif i < len(values):
                    values[i] = context.merge(graph, *states)
            return values, context.index_ref

    @functools.wraps(fn, updated=())
    def function(params: PyTree, /, *args: Any, **kwargs: Any) -> tuple[Any, PyTree]:
        known = {name: kwargs.pop(name) for name in opened_kwargs}
        rest = tree.flatten_up_to((opened_params, args, known))[n:]
        values, index = merged(params, rest)
        copies = [values[i] for i in objects]
        inner = nnx.graph.RefMap.from_indexmap(index)
        before = _flattened(copies, inner)
        params, args, known = jax.tree.unflatten(tree, values)
        result = fn(params, *args, **known, **kwargs)
        return result, _changes(before, _flattened(copies, inner))

    def write_back(state: Changes | None) -> None:
        if state is not None:
            _write(state, [*objects.values()], outer)

    def close(params: PyTree) -> PyTree:
        return jax.tree.unflatten(params_tree, merged(params, [])[0])

    return Opened(
        function, opened_params, opened_args, opened_kwargs, write_back, close
    )


def _is_object(x: Any) -> bool:
    return isinstance(x, nnx.Variable | nnx.Pytree)


def _is_leaf(x: Any) -> bool:
    return _is_object(x) or isinstance(x, nnx.State)


def _leaves(tree: PyTree) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=_is_leaf)


def _detached(tree: PyTree) -> PyTree:
    """The same with variables of its own, which change with no others."""
    return jax.tree.map(lambda x: x, tree)


def _filters(params: PyTree, wrt: Any) -> list[Any]:
    """Which variables learn, for each object, array or state of the parameters."""
    if not isinstance(wrt, Each):
        return [nnx.Param if wrt is None else wrt] * len(_leaves(params))
    return [
        nnx.Param if one is None else one
        for one, argument in zip(wrt, params, strict=True)
        for _ in _leaves(argument)
    ]


def _split(context: Any, x: Any, position: int, filters: list[Any]) -> tuple[Any, ...]:
    """The graph of an object, then its variables, in two halves where some learn."""
    if position >= len(filters) or isinstance(x, nnx.Variable):
        return context.split(x)
    return context.split(x, filters[position], ...)


def _check(wrt: Any, objects: list[Any], slots: list[Any]) -> None:
    modules = [one for one in objects if not isinstance(one, nnx.Variable)]
    if wrt is not None and not modules:
        raise ValueError(
            "wrt chooses among the variables of a module of Flax NNX, and the first "
            "argument holds none. Leave wrt out, or hand in the module itself"
        )
    if modules and not jax.tree.leaves(slots):
        kinds = {type(x).__name__ for _, x in _variables(modules)}
        raise ValueError(
            f"wrt={wrt or nnx.Param!r} matches no variable of the first argument, "
            f"which has: {', '.join(sorted(kinds)) or 'none'}. Name a type among them"
        )


def _variables(objects: list[Any]) -> list[tuple[Any, Any]]:
    return [
        (path, x)
        for one in objects
        for path, x in nnx.iter_graph(one)
        if isinstance(x, nnx.Variable)
    ]


def _flattened(objects: list[Any], inner: Any = None) -> list[_Flat]:
    """Splits objects, together; with what in them stands for what outside."""
    seen = nnx.graph.RefMap()
    flatten = functools.partial(
        nnx.flatten, ref_index=seen, ref_outer_index=inner, **_BY_REFERENCE
    )
    return [
        _Flat(graph, dict(zip(state.paths, _detached(state.leaves), strict=True)))
        for graph, state in map(flatten, objects)
    ]


def _changes(before: list[_Flat], after: list[_Flat]) -> Changes | None:
    leaves = tuple(
        tuple(
            None if path in old.variables and _is_same(old.variables[path], x) else x
            for path, x in new.variables.items()
        )
        for old, new in zip(before, after, strict=True)
    )
    graphs = tuple(one.graph for one in after)
    if not jax.tree.leaves(leaves) and graphs == tuple(one.graph for one in before):
        return None
    return Changes(leaves, graphs, tuple(tuple(one.variables) for one in after))


def _is_same(a: Any, b: Any) -> bool:
    ours, tree = jax.tree.flatten(a)
    theirs, other = jax.tree.flatten(b)
    return tree == other and all(x is y for x, y in zip(ours, theirs, strict=True))


def _write(state: Changes, objects: list[Any], outer: Any) -> None:
    old = _flattened(objects)
    originals, seen = nnx.graph.IndexMap.from_refmap(outer), nnx.graph.IndexMap()
    for one, graph, paths, leaves in zip(
        old, state.graphs, state.paths, state.leaves, strict=True
    ):
        values = [
            one.variables[path] if x is None else x
            for path, x in zip(paths, leaves, strict=True)
        ]
        nnx.unflatten(graph, values, index_ref=seen, outer_index_outer_ref=originals)
