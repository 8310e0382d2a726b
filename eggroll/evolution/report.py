"""Tells how each use of each leaf of a model is evaluated."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn
from jaxtyping import Array, PyTree

from eggroll.evolution import calls, memory
from eggroll.evolution.tracing import trace
from eggroll.perturbation import demotion, jaxprs
from eggroll.perturbation.array import Perturbed
from eggroll.perturbation.dependence import Reach, reaches
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
        reach: whether the results depend on it, and if through `stop_gradient`.
    """

    layout: Layout
    operations: tuple[str, ...]
    materialised: tuple[str, ...]
    bytes_per_member: int
    reach: Reach = Reach.FREE

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

    @property
    def demoted(self) -> tuple[str, ...]:
        """The paths of matrices that get full-rank noise, as no rule asked for it.

        (Vectors are full rank by nature, and so are biases of more dimensions.)
        """
        return tuple(x.layout.path for x in self.leaves if x.layout.lost)

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
        return "\n".join([*(line.rstrip() for line in lines), *self._notes()])

    def _notes(self) -> Iterator[str]:
        """What is to be said of lost ranks, and of what passes a `stop_gradient`."""
        yield from demotion.told(x.layout for x in self.leaves)
        evolved = [x for x in self.leaves if not x.layout.is_frozen]
        for reach, words in (
            (
                Reach.BOTH,
                "in part through stop_gradient: members differ there too, and the "
                "estimate is of the total derivative, as if nothing were stopped",
            ),
            (
                Reach.STOPPED,
                "through stop_gradient alone: what is a loss leaves them as they are "
                "(coverage with is_loss=True), fitness and ask evolve them",
            ),
        ):
            paths = [x.layout.path for x in evolved if x.reach is reach]
            if paths:
                yield f"reached {words}: {', '.join(paths)}"


def coverage(
    fn: Callable,
    params: PyTree,
    *args: Any,
    rank: int | None = 1,
    rules: Mapping[str, Rule] | None = None,
    is_loss: bool = False,
) -> Coverage:
    """Tells how `fn(params, *args)` would be evaluated on perturbed parameters.

    Nothing is computed; abstract arrays (`jax.ShapeDtypeStruct`) will do.

    Args:
        fn: the function.
        params: its parameters.
        args: the rest of its arguments, for one member.
        rank: as in `EvolutionStrategy`.
        rules: as in `EvolutionStrategy`.
        is_loss: whether `fn` is a loss, which stands where one stood in
            `jax.value_and_grad`: its first result alone counts, and leaves that it
            reaches through `stop_gradient` alone are frozen.
    """
    call = calls.opened(fn, (params, *args), {})
    result = lambda *args, **kwargs: call.function(*args, **kwargs)[0]
    traced = trace(
        result, call.params, call.args, kwargs=call.kwargs, has_key=call.has_key
    )
    traced = traced.first() if is_loss else traced
    ruled = of_rank(rank), Rules(rules or {})
    plan = make_plan(traced.jaxpr, call.params, *ruled, obey_stops=is_loss)
    reached = reaches(traced.jaxpr)
    layouts = [x for x in plan if x is not None]
    used, written = _operations(traced.jaxpr, layouts)
    return Coverage(
        tuple(
            LeafCoverage(
                layout,
                tuple(used.get(layout.path, {})),
                tuple(written.get(layout.path, {})),
                memory.noise_bytes([layout]),
                reach,
            )
            for layout, reach in zip(layouts, reached, strict=False)
        ),
        memory.member_bytes(traced.jaxpr, layouts),
    )


def _operations(
    jaxpr: ClosedJaxpr, layouts: Sequence[Layout]
) -> tuple[dict[str, dict[str, None]], dict[str, dict[str, None]]]:
    """By path: the operations that use a leaf, and those that need it written out.

    Args:
        jaxpr: a model's trace; its first arguments are the leaves.
        layouts: how the leaves are perturbed.
    """
    used: dict[str, dict[str, None]] = {}
    written: dict[str, dict[str, None]] = {}

    def observe(
        use: Use,
        leaf: Perturbed,
        primitive: str,
        dims: Sequence[int],
        calls: Sequence[JaxprEqn] = (),
    ) -> None:
        met = written if use is Use.WRITE_OUT else used
        for path in leaf.paths:
            met.setdefault(path, {})[primitive] = None

    def run() -> Any:
        zeros = jaxprs.zeros(jaxpr)
        params = [_stand_in(*x) for x in zip(layouts, zeros, strict=False)]
        return evaluate(jaxpr, [*params, *zeros[len(layouts) :]], observe, len(params))

    jax.eval_shape(run)
    return used, written


def _stand_in(layout: Layout, weight: Array) -> Any:
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
        _written_out_by(leaf) if leaf.is_written_out else "-",
    )


def _written_out_by(leaf: LeafCoverage) -> str:
    lost = leaf.layout.lost
    return lost.primitive if lost else ", ".join(leaf.materialised)


def describe(layout: Layout) -> str:
    """Says how a leaf is perturbed, such as "12 of rank 1, 64 × 256"."""
    if layout.is_frozen:
        return {"": "frozen", "unused": "unused"}.get(layout.idle, "stopped")
    if not layout.cols:
        return "full rank, demoted" if layout.lost else "full rank"
    sizes = [
        "·".join(str(layout.shape[d]) for d in dims)
        for dims in (layout.rows, layout.cols)
    ]
    stack = "".join(f"{layout.shape[d]} of " for d in layout.batch)
    return f"{stack}rank {layout.rank}, {sizes[0]} × {sizes[1]}"
