"""The rules for functions that JAX nests: loops, branches, shards.

(What merely calls a function, as `jit` and `checkpoint` do, needs no rule.)
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn
from jax.sharding import PartitionSpec
from jaxtyping import Array

from eggroll.perturbation import jaxprs, meshes
from eggroll.perturbation.array import Perturbed
from eggroll.perturbation.interpreter import (
    Interpreter,
    PrimitiveRule,
    Use,
    is_perturbed,
)


def _scan(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> list[Any]:
    body, n_consts, n_carry, options = jaxprs.scan_parts(eqn)
    # Flax carries whole modules through its loops: what a turn hands on as it got it
    # is a constant, and keeps its factors. (What a turn changes is written out.)
    forwarded = jaxprs.forwarded(body.jaxpr)
    consts, carry = operands[:n_consts], operands[n_consts : n_consts + n_carry]
    fixed, init = _split_carry(carry, forwarded, n_consts, run)
    layers = operands[n_consts + n_carry :]
    stacks = [_stack(x, run) if is_perturbed(x) else x for x in layers]

    def step(state: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        (state, xs), same = _tied((state, xs), [*consts, *fixed])
        pairs = zip(layers, xs, strict=True)
        xs = [of.layer(*x) if is_perturbed(of) else x for of, x in pairs]
        carry = _join(same[n_consts:], state)
        outs = run.evaluate(body, [*same[:n_consts], *carry, *xs])
        new = [run.written_out(x, "scan") for x in _varying(fixed, outs)]
        return new, [run.written_out(x, "scan") for x in outs[n_carry:]]

    state, ys = lax.scan(step, init, stacks, **options)
    return [*_join(fixed, state), *ys]


def _stack(leaf: Perturbed, run: Interpreter) -> tuple[Array, list[Array]]:
    """The weight and the factors of a stack, each with a layer for every turn.

    (The scale is shared by the layers, so that it is not scanned over. The factors are
    taken as they are kept: under `jax.vmap` any reshape would transpose them.)
    """
    run.observe(Use.BATCH, leaf, "scan", (0,))
    layers = leaf.shape[0]
    kept = [
        x if shape[0] != 1 else jnp.broadcast_to(x, (layers, *x.shape))
        for x, shape in zip(leaf.kept, leaf.shapes, strict=True)
    ]
    return leaf.weight, kept


def _while(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> list[Any]:
    condition, body, n_cond, n_body = jaxprs.while_parts(eqn)
    cond_consts, body_consts = operands[:n_cond], operands[n_cond : n_cond + n_body]
    forwarded = jaxprs.forwarded(body.jaxpr)
    fixed, init = _split_carry(operands[n_cond + n_body :], forwarded, n_body, run)

    def proceed(state: list[Any]) -> Any:
        return run.finish(condition, [*cond_consts, *_join(fixed, state)])[0]

    def step(state: list[Any]) -> list[Any]:
        state, same = _tied(state, [*body_consts, *fixed])
        outs = run.evaluate(body, [*same[:n_body], *_join(same[n_body:], state)])
        return [run.written_out(x, "while") for x in _varying(fixed, outs)]

    return _join(fixed, lax.while_loop(proceed, step, init))


def _cond(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> list[Any]:
    index, *rest = operands

    def branch(jaxpr: ClosedJaxpr) -> Callable:
        outs = lambda: run.evaluate(jaxpr, rest)
        return lambda: [run.written_out(x, "cond") for x in outs()]

    branches = [branch(j) for j in jaxprs.branches(eqn)]
    platforms = eqn.params.get("branches_platforms")
    if platforms is None:
        return lax.switch(index, branches)
    # What is meant for other platforms need not even compile on this one.
    default = branches[platforms.index(None)] if None in platforms else None
    pairs = zip(platforms, branches, strict=True)
    chosen = {name: run for names, run in pairs for name in names or ()}
    return lax.platform_dependent(default=default, **chosen)


def _tied(changing: Any, same: list[Any]) -> tuple[Any, list[Any]]:
    """Makes factors that a loop leaves alone seem to change from turn to turn.

    Compilers would widen their eight bits once, before the loop, and then read four
    times the bytes at every turn; and keep a vector for each member where one of signs
    would do. A barrier around them and what does change keeps the widening inside.

    Args:
        changing: what the loop changes.
        same: its constants, some of them perturbed.

    Returns:
        Both, to be used instead.
    """
    is_tied = [is_perturbed(x) and x.has_small_factors for x in same]
    kept = [x.kept for x, tied in zip(same, is_tied, strict=True) if tied]
    changing, kept = meshes.barrier((changing, kept))
    copies = iter(kept)
    return changing, [
        x.with_kept(next(copies)) if tied else x
        for x, tied in zip(same, is_tied, strict=True)
    ]


def _split_carry(
    carry: list[Any], forwarded: list[int | None], offset: int, run: Interpreter
) -> tuple[list[Perturbed | None], list[Any]]:
    """Splits a loop's carry into what the loop leaves alone and what it changes."""
    fixed = [
        x if is_perturbed(x) and forwarded[i] == offset + i else None
        for i, x in enumerate(carry)
    ]
    init = [run.written_out(x, "carry") for x in _varying(fixed, carry)]
    return fixed, init


def _varying(fixed: list[Any], carry: list[Any]) -> list[Any]:
    pairs = zip(fixed, carry, strict=False)  # results that follow the carry are left
    return [x for f, x in pairs if f is None]


def _join(fixed: list[Any], state: Sequence[Any]) -> list[Any]:
    rest = iter(state)
    return [next(rest) if f is None else f for f in fixed]


def _shard_map(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> list[Any]:
    """Shards factors as the weight is sharded, along the dimensions they vary along."""
    body, in_specs, out_specs, options = jaxprs.shard_map_parts(eqn)

    # A factor has been kept without its dimensions of size 1, and so are its axes.
    def of_factor(shape: tuple[int, ...], spec: Any) -> Any:
        axes = itertools.zip_longest(shape, spec)
        return PartitionSpec(*(axis for size, axis in axes if size != 1))

    def specs(x: Any, spec: Any) -> Any:
        if not is_perturbed(x):
            return spec
        scale = jax.tree.map(lambda _: PartitionSpec(), x.scale)
        kept = tuple(of_factor(shape, spec) for shape in x.shapes)
        return Perturbed.tree_unflatten(x.static, (spec, kept, scale))

    inner = jax.shard_map(
        lambda *x: run.finish(
            body, [v.of_shard() if is_perturbed(v) else v for v in x]
        ),
        in_specs=tuple(map(specs, operands, in_specs)),
        out_specs=list(out_specs),
        **options,
    )
    return inner(*operands)


RULES: dict[str, PrimitiveRule] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "shard_map": _shard_map,
}
