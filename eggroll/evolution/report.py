"""Tells how each use of each leaf of a model is evaluated."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from eggroll.evolution import memory
from eggroll.evolution.tracing import takes_open, trace
from eggroll.perturbation import jaxprs
from eggroll.perturbation.array import Perturbed
from eggroll.perturbation.interpreter import Use
from eggroll.perturbation.layout import Layout, make_plan
from eggroll.perturbation.rules import Rule, Rules, of_rank
from eggroll.perturbation.transform import evaluate


@dataclasses.dataclass(frozen=True)
class LeafCoverage:
    """What becomes of one leaf.

    Attributes:
        layout: how it is perturbed.
        operations: the operations that met it with a rule of their own.
        materialised: the operations that need it, or a matrix of it, written out for
            every member. None for a full-rank leaf, which always is.
        bytes_per_member: of its noise.
    """

    layout: Layout
    operations: tuple[str, ...]
    materialised: tuple[str, ...]
    bytes_per_member: int

    @property
    def is_written_out(self) -> bool:
        """Whether a matrix has to be written out."""
        return bool(self.layout.lost or (self.layout.cols and self.materialised))


@dataclasses.dataclass(frozen=True)
class Coverage:
    """How a model is perturbed, leaf by leaf; prints as a table.

    Attributes:
        leaves: in the order of the parameters.
        bytes_per_member: an upper bound of the memory that evaluating one member takes.
    """

    leaves: tuple[LeafCoverage, ...]
    bytes_per_member: int

    @property
    def written_out(self) -> tuple[str, ...]:
        """The paths of matrices that have to be written out for every member."""
        return tuple(x.layout.path for x in self.leaves if x.is_written_out)

    def __getitem__(self, path: str) -> LeafCoverage:
        for leaf in self.leaves:
            if leaf.layout.path == path:
                return leaf
        raise KeyError(path)

    def __str__(self) -> str:
        head = ("leaf", "shape", "perturbation", "used by", "written out by")
        rows = [head, *(_row(x) for x in self.leaves)]
        widths = [max(len(r[i]) for r in rows) for i in range(len(head))]
        lines = (
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))
            for row in rows
        )
        return "\n".join(line.rstrip() for line in lines)


def coverage(
    fn: Callable,
    params: PyTree,
    *args: Any,
    rank: int | None = 1,
    rules: Mapping[str, Rule] | None = None,
) -> Coverage:
    """Tells how `fn(params, *args)` would be evaluated on perturbed parameters.

    Nothing is computed; abstract arrays (`jax.ShapeDtypeStruct`) will do.

    Args:
        fn: the function.
        params: its parameters.
        args: the rest of its arguments, for one member.
        rank: as in `EvolutionStrategy`.
        rules: as in `EvolutionStrategy`.
    """
    has_key = takes_open(fn, "key", 1 + len(args))
    traced = trace(fn, params, args, has_key=has_key)
    plan = make_plan(traced.jaxpr, params, of_rank(rank), Rules(rules or {}))
    layouts = [x for x in plan if x is not None]
    used: dict[str, dict[str, None]] = {}  # by path: operations, in their order
    written: dict[str, dict[str, None]] = {}

    def observe(use: Use, leaf: Perturbed, primitive: str, dims: Sequence[int]) -> None:
        met = written if use is Use.WRITE_OUT else used
        for path in leaf.paths:
            met.setdefault(path, {})[primitive] = None

    def run() -> Any:
        params = [_stand_in(layout) for layout in layouts]
        data = jaxprs.zeros(traced.jaxpr, len(layouts))
        return evaluate(traced.jaxpr, [*params, *data], observe)

    jax.eval_shape(run)
    return Coverage(
        tuple(
            LeafCoverage(
                layout,
                tuple(used.get(layout.path, {})),
                tuple(written.get(layout.path, {})),
                memory.noise_bytes([layout]),
            )
            for layout in layouts
        ),
        memory.member_bytes(traced.jaxpr, layouts),
    )


def _stand_in(layout: Layout) -> Any:
    weight = jnp.zeros(layout.shape, layout.dtype)
    if layout.is_frozen:
        return weight
    factors = [jnp.zeros(shape, jnp.int8) for shape in layout.factor_shapes]
    return Perturbed(weight, factors, jnp.float32(1), (layout.path,))


def _row(leaf: LeafCoverage) -> tuple[str, ...]:
    layout = leaf.layout
    return (
        layout.path,
        " × ".join(map(str, layout.shape)) or "scalar",
        describe(layout),
        ", ".join(leaf.operations) or "-",
        (layout.lost or ", ".join(leaf.materialised)) if leaf.is_written_out else "-",
    )


def describe(layout: Layout) -> str:
    """Says how a leaf is perturbed, such as "12 of rank 1, 64 × 256"."""
    if layout.is_frozen:
        return "frozen"
    if not layout.cols:
        return "full rank"
    sizes = [
        "·".join(str(layout.shape[d]) for d in dims)
        for dims in (layout.rows, layout.cols)
    ]
    stack = "".join(f"{layout.shape[d]} of " for d in layout.batch)
    return f"{stack}rank {layout.rank}, {sizes[0]} × {sizes[1]}"
