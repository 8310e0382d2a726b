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

from eggroll import _jax
from eggroll.interpreter import Interpreter, Rule, is_perturbed
from eggroll.lowrank import Perturbed


def _scan(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> list[Any]:
    params, (body, n_consts, n_carry) = eqn.params, _jax.scan_parts(eqn)
    forwarded = _jax.forwarded(body.jaxpr)
    consts, carry = operands[:n_consts], operands[n_consts : n_consts + n_carry]
    fixed, init = _split_carry(carry, forwarded, n_consts, run)
    layers = [
        _Layers.of(x, run) if is_perturbed(x) else x
        for x in operands[n_consts + n_carry :]
    ]

    def step(state: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        (state, xs), same = _tied((state, xs), [*consts, *fixed])
        xs = [x.one() if isinstance(x, _Layers) else x for x in xs]
        carry = _join(same[n_consts:], state)
        outs = run.evaluate(body, [*same[:n_consts], *carry, *xs])
        new = [run.written_out(x, "scan") for x in _varying(fixed, outs)]
        return new, [run.written_out(x, "scan") for x in outs[n_carry:]]

    state, ys = lax.scan(
        step,
        init,
        layers,
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*_join(fixed, state), *ys]


def _while(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> list[Any]:
    params = eqn.params
    n_cond, n_body = params["cond_nconsts"], params["body_nconsts"]
    condition, body = _jax.close(params["cond_jaxpr"]), _jax.close(params["body_jaxpr"])
    cond_consts, body_consts = operands[:n_cond], operands[n_cond : n_cond + n_body]
    forwarded = _jax.forwarded(body.jaxpr)
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
        return lambda: run.finish(jaxpr, rest)

    return lax.switch(index, [branch(_jax.close(j)) for j in eqn.params["branches"]])


def _tied(changing: Any, same: list[Any]) -> tuple[Any, list[Any]]:
    """Ties factors that a loop leaves alone to what changes from turn to turn.

    Compilers would widen them once, before the loop, and then read four times the
    bytes at every turn; and keep a vector for each member where one of signs would do.
    """
    is_tied = [is_perturbed(x) and x.is_small for x in same]
    kept = [x.kept for x, tied in zip(same, is_tied, strict=True) if tied]
    changing, kept = lax.optimization_barrier((changing, kept))
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


@jax.tree_util.register_pytree_node_class
class _Layers:
    """A perturbed stack for a scan to take apart: the scale is shared, not scanned."""

    def __init__(self, arrays: Any, scale: Any, static: tuple[Any, ...]):
        self.arrays, self.scale, self.static = arrays, scale, static

    @classmethod
    def of(cls, leaf: Perturbed, run: Interpreter) -> "_Layers":
        run.observe("batch", leaf, "scan", (0,))
        length = leaf.shape[0]
        factors = [jnp.broadcast_to(f, (length, *f.shape[1:])) for f in leaf.factors]
        return cls((leaf.weight, factors), _Closed(leaf.scale), leaf.static[1:])

    def one(self) -> Perturbed:
        weight, factors = self.arrays
        return Perturbed(weight, factors, self.scale.value, *self.static)

    def tree_flatten(self) -> tuple[tuple, tuple]:
        return (self.arrays,), (self.scale, self.static)

    @classmethod
    def tree_unflatten(cls, static: tuple, children: tuple) -> "_Layers":
        return cls(children[0], *static)


class _Closed:
    """A value that rides in a pytree's static part, compared by identity."""

    def __init__(self, value: Any):
        self.value = value


def _shard_map(eqn: JaxprEqn, operands: list[Any], run: Interpreter) -> list[Any]:
    """Shards factors as the weight is sharded, along the dimensions they vary along."""
    params, body = eqn.params, _jax.close(eqn.params["jaxpr"])

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
        lambda *x: run.finish(body, x),
        mesh=params["mesh"],
        in_specs=tuple(map(specs, operands, params["in_specs"])),
        out_specs=list(params["out_specs"]),
        axis_names=_jax.manual_axes(eqn),
        check_vma=params["check_vma"],
    )
    return inner(*operands)


RULES: dict[str, Rule] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "shard_map": _shard_map,
}
