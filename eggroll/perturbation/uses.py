"""What a model does with the dimensions of its leaves.

The model is evaluated abstractly on probes: perturbed arrays with one factor for each
dimension of a leaf. Wherever an operation takes one, the factors that vary along a
dimension tell which dimensions of the leaf it comes from, through all views.
"""

import dataclasses
import math
from collections.abc import Container, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, Var
from jaxtyping import Array

from eggroll.perturbation import jaxprs
from eggroll.perturbation.array import Perturbed
from eggroll.perturbation.flow import ELEMENTWISE, flow
from eggroll.perturbation.interpreter import Use
from eggroll.perturbation.places import line_of
from eggroll.perturbation.transform import evaluate


@dataclasses.dataclass
class Uses:
    """What becomes of the dimensions of one leaf.

    Attributes:
        ndim: how many there are.
        batch: those that a loop or a batched product takes apart.
        contracted: those that are summed over together, for each time.
        indexed: those of which single positions are taken that are found at run time.
        parts: those of which single, fixed positions are taken.
        split: those of which a part is indexed, after a reshape, and by what.
        scanned: whether a loop takes the first of them apart.
        lost: the first operation, if any, that needed a matrix of it written out, on
            its way to a product.
        line: where that is in the user's function.
    """

    ndim: int
    batch: set[int] = dataclasses.field(default_factory=set)
    contracted: list[set[int]] = dataclasses.field(default_factory=list)
    indexed: set[int] = dataclasses.field(default_factory=set)
    parts: set[int] = dataclasses.field(default_factory=set)
    split: dict[int, str] = dataclasses.field(default_factory=dict)
    scanned: bool = False
    lost: str = ""
    line: str = ""

    def record(
        self, use: Use, probe: Perturbed, primitive: str, dims: Sequence[int]
    ) -> None:
        """Notes a use of the leaf's probe; factor k says where its dimension k is."""
        # (What was joined may have one factor more than the leaf has dimensions.)
        shapes = probe.shapes[: self.ndim]
        varies = [{d for d, n in enumerate(shape) if n != 1} for shape in shapes]
        touched = {k for k, along in enumerate(varies) if along & {*dims}}
        part = {k for k in touched if varies[k] - {*dims}}
        if probe.looked_up:
            # The positions looked up are no dimension of the leaf any more, and what
            # an activation's other dimensions are split into does not concern it.
            touched -= self.indexed | (part if use is Use.BATCH else set())
        if use is Use.CONTRACT and touched:
            self.contracted.append(touched)
        elif use is Use.BATCH:
            self.batch |= touched
            self.scanned |= primitive == "scan" and touched == {0}
        elif use is Use.PART and not probe.looked_up:
            self.parts |= touched
        elif use is Use.INDEX and not probe.looked_up:
            self.indexed |= touched
            self.split |= dict.fromkeys(part, primitive)

    def sides(self, shape: Sequence[int]) -> tuple[set[int], set[int]]:
        """Returns the dimensions that are a batch, and those of the left factor.

        Single positions are how a loop takes the layers of a stack, and a token its
        experts: they are a batch, if a matrix is left without them. They are also how
        an embedding looks up its tokens, and then they are rows.
        """
        contracted = [c - self.batch for c in self.contracted if c - self.batch]
        stack = (self.indexed | self.parts) - self.batch - set().union(*contracted)
        table = self.indexed - self.batch
        rest = [d for d in range(len(shape)) if d not in self.batch | stack]
        rows = contracted[0] if contracted else {*rest[:-1]} if table else set()
        if min(size_of(shape, rows), size_of(shape, {*rest} - rows)) > 1:
            return self.batch | stack, rows
        return self.batch, table or rows

    def lost_at(self, rows: set[int]) -> str:
        """The operation that takes apart what another contracts as a whole, if any."""
        return next((name for d, name in self.split.items() if d in rows), "")


def record_uses(
    jaxpr: ClosedJaxpr, named: list[tuple[str, Any]], probed: Container[str]
) -> dict[str, Uses]:
    """Returns the uses of each leaf, by its path.

    Args:
        jaxpr: the model's trace; its first arguments are the leaves.
        named: the leaves, arrays all of them, with their paths.
        probed: the paths of those that could be perturbed.
    """
    uses = {path: Uses(x.ndim) for path, x in named}
    n, rest = len(named), len(jaxpr.jaxpr.invars) - len(named)
    seen = flow(jaxpr, [True] * n + [False] * rest, [False] * n + [True] * rest)
    multiplied = {named[k][0] for k in seen.multiplied}

    def observe(
        use: Use,
        leaf: Perturbed,
        primitive: str,
        dims: Sequence[int],
        calls: Sequence[JaxprEqn] = (),
    ) -> None:
        is_lost = use is Use.WRITE_OUT and not _meets_activation(
            leaf, calls, seen.activations
        )
        for path in leaf.paths:
            if path not in leaf.unfollowed:
                uses[path].record(use, leaf, primitive, dims)
            if is_lost and path in multiplied and not uses[path].lost:
                uses[path].lost, uses[path].line = primitive, line_of(calls)

    def run() -> Any:
        zeros = jaxprs.zeros(jaxpr)
        probes = [
            _probe(path, x) if path in probed else x
            for (path, _), x in zip(named, zeros, strict=False)
        ]
        return evaluate(jaxpr, [*probes, *zeros[len(probes) :]], observe, len(probes))

    jax.eval_shape(run)
    return uses


def _probe(path: str, weight: Array) -> Any:
    """A leaf with a factor for each of its dimensions, if it has any."""
    if not weight.ndim or not weight.size:
        return weight
    factors = [
        jnp.zeros([n if d == k else 1 for d, n in enumerate(weight.shape)] + [1])
        for k in range(weight.ndim)
    ]
    return Perturbed(weight, factors, paths=(path,))


def _meets_activation(
    leaf: Perturbed, calls: Sequence[JaxprEqn], data: Container[Var]
) -> bool:
    """Whether what a leaf meets, element by element, is an activation.

    A bias does, of however many dimensions, and a table of positions: they are no
    matrices. A number or a row that comes from data makes a matrix no less of one.
    """
    if not calls or calls[-1].primitive.name not in ELEMENTWISE:
        return False
    varies = {d for shape in leaf.shapes for d, n in enumerate(shape) if n != 1}
    shapes = [
        getattr(v.aval, "shape", ())
        for v in calls[-1].invars
        if isinstance(v, Var) and v in data
    ]
    return any(len(s) == leaf.ndim and all(s[d] > 1 for d in varies) for s in shapes)


def size_of(shape: Sequence[int], dims: Iterable[int]) -> int:
    """How many elements there are along some dimensions."""
    return math.prod(shape[d] for d in dims)
