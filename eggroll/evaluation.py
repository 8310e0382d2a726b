"""Evaluates a function on every member of a population.

The function is traced once, for one member. Noise is drawn for a whole chunk of members
at population level, and only the model runs under `vmap`: drawn inside the mapped
function, the same computation takes twice as long on a CPU.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from eggroll import _jax, noise as noise_
from eggroll.interpreter import Observer
from eggroll.lowrank import Perturbed
from eggroll.noise import Noise
from eggroll.plan import Layout, is_array
from eggroll.transform import evaluate


class Trace(NamedTuple):
    """A function of parameters and data, traced for one member.

    Attributes:
        jaxpr: its arguments are the arrays of the parameters, then those of the data,
            then the member's key if `has_key`.
        out_tree: the structure of its result.
        params: the arrays of the parameters.
        data: the arrays of the data, with the member dimension where `is_mapped`.
        is_mapped: which arrays of the data have one row a member or a group.
        has_key: whether the function takes a key.
    """

    jaxpr: ClosedJaxpr
    out_tree: Any
    params: list[Array]
    data: list[Array]
    is_mapped: list[bool]
    has_key: bool


def trace(
    fn: Callable,
    params: PyTree,
    args: tuple[PyTree, ...],
    in_axes: Any,
    population: int,
) -> Trace:
    """Traces `fn(params, *args)` for one member.

    Raises:
        ValueError: if `in_axes` does not fit `args`, or if an array's number of rows
            (one a member or a group) does not divide the population.
    """
    leaves, tree = jax.tree.flatten((params, args))
    n_params = len(jax.tree.leaves(params))
    axes = _axes(in_axes, args)
    mapped = [False] * n_params + [a is not None for a in axes]
    for x, m in zip(leaves, mapped, strict=True):
        if m:
            _check_rows(x, population)
    is_data = [is_array(x) for x in leaves[:n_params]]
    is_data += [_is_data(x) for x in leaves[n_params:]]
    arrays = [_as_array(x) for x, d in zip(leaves, is_data, strict=True) if d]
    mapped = [m for m, d in zip(mapped, is_data, strict=True) if d]
    has_key = takes_key(fn, 1 + len(args))

    def flat(*values: Any) -> Any:
        given = iter(values)
        full = [next(given) if d else x for d, x in zip(is_data, leaves, strict=True)]
        params, args = jax.tree.unflatten(tree, full)
        return fn(params, *args, key=next(given)) if has_key else fn(params, *args)

    one = [
        jax.ShapeDtypeStruct(x.shape[1:] if m else x.shape, x.dtype)
        for x, m in zip(arrays, mapped, strict=True)
    ]
    if has_key:
        one.append(jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32")))
    jaxpr, out_tree = _jax.trace(flat, *one)
    n = sum(is_data[:n_params])
    return Trace(jaxpr, out_tree, arrays[:n], arrays[n:], mapped[n:], has_key)


def takes_key(fn: Callable, n_args: int) -> bool:
    """Whether a function has a parameter `key` that its first arguments leave open."""
    try:
        signature = inspect.signature(fn)
        given = signature.bind_partial(*range(n_args)).arguments
    except (TypeError, ValueError):
        return False
    return "key" in signature.parameters and "key" not in given


def _as_array(x: Any) -> Any:
    """An array of JAX, with abstract ones left as they are."""
    return x if isinstance(x, jax.ShapeDtypeStruct) else jnp.asarray(x)


def _is_data(x: Any) -> bool:
    """Whether an argument is given to the function as an array (or random key)."""
    return isinstance(x, (jax.Array, int, float, complex)) or is_array(x)


def _axes(in_axes: Any, args: tuple[PyTree, ...]) -> list[int | None]:
    """One entry for each leaf of the arguments: None or 0, as `jax.vmap` reads them."""
    is_none = lambda x: x is None
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


class Members(NamedTuple):
    """Some members of a population, and what is needed to perturb for them.

    Attributes:
        index: which members.
        sign: +1 or -1: of each one's perturbation.
        pair: whose noise each one uses.
        repeat: how many members in a row use the same noise.
    """

    index: Int[Array, " members"]
    sign: Float[Array, " members"]
    pair: Int[Array, " members"]
    repeat: int

    @classmethod
    def of(cls, index: Int[Array, " members"], *, antithetic: bool) -> "Members":
        """Describes members; of an even number with pairs, neighbours are a pair."""
        if not antithetic:
            return cls(index, jnp.ones(index.shape), index, 1)
        whole = index.shape[0] % 2 == 0
        return cls(index, 1.0 - 2.0 * (index % 2), index // 2, 2 if whole else 1)


def factor_scale(layout: Layout, noise: Noise) -> float:
    """Returns what makes the product of a leaf's factors have variance one.

    1/(√r s²) for a low-rank leaf whose factors have entries of standard deviation s;
    1/s for a full-rank one.
    """
    entries = noise_.std(noise) ** len(layout.factor_shapes)
    return 1.0 / (math.sqrt(layout.rank) * entries)


def draw(
    plan: Sequence[Layout],
    key: PRNGKeyArray,
    sigma: Float[Array, ""],
    noise: Noise,
    members: Members,
) -> list[tuple[tuple[Array, ...], Float[Array, ""]] | None]:
    """Draws the perturbations of some members.

    Args:
        plan: how each leaf is perturbed.
        key: of the generation.
        sigma: standard deviation of each weight's perturbation.
        noise: distribution of the factors' entries.
        members: whose.

    Returns:
        For each leaf its factors, with a leading member dimension and each member's
        sign, and its scale; None for a frozen one. `perturb` makes one member's
        parameters of it, under `vmap`.
    """
    pairs = members.pair[:: members.repeat]
    drawn = noise_.draw(plan, key, pairs, noise, members.repeat, members.sign)

    def scale(layout: Layout) -> Float[Array, ""]:
        return sigma * (layout.rule.sigma_scale * factor_scale(layout, noise))

    return [
        None if layout.is_frozen else (factors, scale(layout))
        for layout, factors in zip(plan, drawn, strict=True)
    ]


def perturb(
    params: Sequence[Array], plan: Sequence[Layout], drawn: Sequence[Any]
) -> list[Any]:
    """Returns one member's parameters, perturbed but not written out."""

    def leaf(weight: Array, layout: Layout, one: Any) -> Any:
        if one is None:
            return weight
        factors, scale = one
        return Perturbed(weight, factors, scale, (layout.path,))

    return [leaf(*x) for x in zip(params, plan, drawn, strict=True)]


def evaluate_members(
    trace: Trace,
    plan: Sequence[Layout],
    drawn: Sequence[Any],
    data: Sequence[Array],
    keys: PRNGKeyArray | None,
    observe: Observer,
) -> list[Array]:
    """Evaluates a traced function for some members.

    Args:
        trace: of the function.
        plan: how each leaf is perturbed.
        drawn: by `draw`.
        data: the arrays of the data; those that are mapped have a row a member.
        keys: a key a member, if the function takes one.
        observe: is told of every use of a perturbed array.

    Returns:
        The arrays of the result, with a leading member dimension.
    """

    def one(drawn: Any, data: list[Array], keys: list[Array]) -> list[Array]:
        params = perturb(trace.params, plan, drawn)
        return evaluate(trace.jaxpr, [*params, *data, *keys], observe)

    axes = [0 if mapped else None for mapped in trace.is_mapped]
    by_member = jax.tree.map(lambda x: 0 if jnp.ndim(x) else None, drawn)
    run = jax.vmap(one, in_axes=(by_member, axes, 0))
    return run(drawn, list(data), [] if keys is None else [keys])
