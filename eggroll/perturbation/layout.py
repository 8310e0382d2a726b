"""Decides how each leaf of a model is perturbed, by looking at how the model uses it.

A leaf that is contracted (a matmul, a convolution) is a matrix: the contracted
dimensions are its rows, the rest its columns. Dimensions that are taken apart (by a
loop over layers, a batched product, a lookup of experts) are a batch of matrices, each
with noise of its own; but where single positions are vectors, as an embedding's are,
the leaf is one matrix with a row for each. A leaf that is only added or multiplied
elementwise gets full-rank noise. Rules by path override.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.sharding import PartitionSpec

from eggroll.perturbation.demotion import Lost
from eggroll.perturbation.dependence import Reach, reaches
from eggroll.perturbation.rules import (
    Frozen,
    FullRank,
    LowRank,
    Rule,
    Rules,
    can_evolve,
    frozen,
)
from eggroll.perturbation.uses import Uses, record_uses, size_of


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one leaf is perturbed.

    Attributes:
        path: the leaf's name in the parameters, such as "layers/0/kernel".
        shape: of the leaf.
        dtype: of the leaf, by name.
        rule: the perturbation.
        batch: dimensions along which everything is independent.
        rows: dimensions of the left factor.
        cols: dimensions of the right factor. Empty for full rank.
        lost: where a matrix lost its low rank, if one did and no rule asked for it.
        idle: why a leaf that no rule freezes is frozen, if it is: "unused", or
            "stop_gradient" (the function reaches it through that alone).
        scanned: whether a loop takes its first dimension apart, layer by layer.
        spec: the axes of a mesh that divide its dimensions, where they are known.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    rule: Rule
    batch: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    cols: tuple[int, ...] = ()
    lost: Lost | None = None
    idle: str = ""
    scanned: bool = False
    spec: PartitionSpec | None = None

    @property
    def is_frozen(self) -> bool:
        return isinstance(self.rule, Frozen)

    @property
    def rank(self) -> int:
        """The size of the factors' last dimension."""
        return self.rule.rank if isinstance(self.rule, LowRank) and self.cols else 1

    @property
    def sigma_scale(self) -> float:
        """The leaf's sigma, as a multiple of the strategy's."""
        return 0.0 if isinstance(self.rule, Frozen) else self.rule.sigma_scale

    @property
    def factor_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the factors: size 1 where one does not vary, the rank last."""
        if self.is_frozen:
            return ()
        sides = (self.rows, self.cols) if self.cols else (range(len(self.shape)),)
        return tuple(
            (
                *(
                    n if d in side or d in self.batch else 1
                    for d, n in enumerate(self.shape)
                ),
                self.rank,
            )
            for side in sides
        )

    @property
    def values(self) -> int:
        """How many random numbers perturb the leaf once."""
        return sum(math.prod(s) for s in self.factor_shapes)


def make_plan(
    jaxpr: ClosedJaxpr,
    params: Any,
    default: Rule,
    rules: Rules,
    *,
    obey_stops: bool = False,
) -> tuple[Layout | None, ...]:
    """Decides how each leaf of `params` is perturbed.

    A leaf that reaches no result is frozen, whatever the rules say: its gradient is
    zero, of which an estimate would be nothing but noise.

    Args:
        jaxpr: the model's trace; its first arguments are the array leaves of `params`.
            All its results are taken to matter.
        params: the parameters.
        default: the rule for contracted leaves that no pattern matches.
        rules: by path pattern; the first that matches a path decides.
        obey_stops: freeze leaves that are reached through `stop_gradient` alone, as
            `jax.grad` does. (An environment stops gradients for its own purposes.)

    Returns:
        One layout a leaf, in `jax.tree.leaves` order; None for what is no array.

    Raises:
        ValueError: if no leaf would be perturbed, or a pattern matches no leaf.
    """
    named = named_leaves(params)
    rules.check(path for path, _ in named)
    arrays = [(path, x) for path, x in named if is_array(x)]
    probed = {path for path, x in arrays if can_evolve(x.dtype, rules.find(path))}
    uses, reached = record_uses(jaxpr, arrays, probed), reaches(jaxpr)
    idle = {
        path: _idle(reach, obey_stops=obey_stops)
        for (path, _), reach in zip(arrays, reached, strict=False)
    }
    plan = tuple(
        _layout(path, x, rules.find(path), default, uses[path], idle[path])
        if is_array(x)
        else None
        for path, x in named
    )
    if all(x is None or x.is_frozen for x in plan):
        _refuse_idle(plan)
        kinds = {
            str(jnp.result_type(x)) if is_array(x) else type(x).__name__
            for _, x in named
        }
        raise ValueError(
            f"nothing to evolve: expected at least one floating-point leaf that is not "
            f"frozen, got {len(named)} leaves of types {', '.join(kinds) or 'none'}; "
            f"check the parameters and the rules"
        )
    return plan


def _idle(reach: Reach, *, obey_stops: bool) -> str:
    """Why a leaf that reaches the results so is left alone; "" if it is not."""
    if not reach:
        return "unused"
    return "stop_gradient" if obey_stops and reach is Reach.STOPPED else ""


def _refuse_idle(plan: Sequence[Layout | None]) -> None:
    """Refuses a plan of which all leaves are frozen, some of them because of their use.

    Raises:
        ValueError: naming them.
    """
    idle = [(x.path, x.idle) for x in plan if x is not None and x.idle]
    if not idle:
        return
    said, shown = [], 5
    for way, words in (
        ("unused", "not used by the function"),
        ("stop_gradient", "reached through stop_gradient alone"),
    ):
        paths = [path for path, why in idle if why == way]
        if paths:
            more = f" and {len(paths) - shown} more" if len(paths) > shown else ""
            verb = "are" if len(paths) > 1 else "is"
            said.append(f"{', '.join(paths[:shown])}{more} {verb} {words}")
    black_box = (
        "; where the function is a black box such as an environment, give it as "
        "fitness=, by which stops are ignored"
    )
    raise ValueError(
        f"nothing to evolve: {', '.join(said)}; check that the result depends on the "
        f"parameters it is given{black_box if 'alone' in said[-1] else ''}"
    )


def named_leaves(params: Any) -> list[tuple[str, Any]]:
    """Returns the leaves of a pytree with their paths, such as "layers/0/kernel"."""
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    name = jax.tree_util.keystr
    return [(name(p, simple=True, separator="/") or "params", x) for p, x in flat]


def is_array(x: Any) -> bool:
    """Whether a leaf is an array of numbers (no function, string or random key)."""
    if not isinstance(x, (jax.Array, np.ndarray, jax.ShapeDtypeStruct)):
        return False
    return x.dtype != jax.dtypes.float0 and not (
        jnp.issubdtype(x.dtype, jax.dtypes.extended)
    )


def _layout(
    path: str, leaf: Any, rule: Rule | None, default: Rule, uses: Uses, idle: str
) -> Layout:
    """How one leaf is perturbed.

    Args:
        path: of the leaf.
        leaf: an array.
        rule: what a pattern says of it, if one does.
        default: what holds otherwise.
        uses: what the model does with it.
        idle: why it is left alone, if it is.
    """
    shape = tuple(leaf.shape)
    named = (path, shape, str(jax.dtypes.canonicalize_dtype(leaf.dtype)))
    chosen = default if rule is None else rule
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating) and rule is not frozen:
        raise ValueError(
            f"{path} is {leaf.dtype}, and complex numbers are not evolved: keep real "
            f"and imaginary part as leaves of their own, or leave it as it is with "
            f"rules={{{path!r}: eggroll.frozen}}"
        )
    if not can_evolve(leaf.dtype, rule) or not leaf.size:
        return Layout(*named, frozen)
    if idle and not isinstance(chosen, Frozen):
        return Layout(*named, frozen, idle=idle)
    scanned = uses.scanned and shape[0] > 1
    if not isinstance(chosen, LowRank):
        return Layout(*named, chosen, scanned=scanned)
    full = FullRank(chosen.sigma_scale, chosen.quantised)
    batch, rows = uses.sides(shape)
    if split := uses.lost_at(rows):  # its slices have to be independent
        lost = Lost(split, is_split=True)
        return Layout(*named, full, lost=lost, scanned=scanned)
    inner = [d for d in range(leaf.ndim) if d not in batch]
    if not rows and rule is not None:  # an explicit rule makes a matrix of anything
        rows = {*inner[:-1]}
    cols = {*inner} - rows
    if min(size_of(shape, rows), size_of(shape, cols)) == 1:
        is_matrix = sum(shape[d] > 1 for d in inner) > 1
        lost = Lost(uses.lost, uses.line) if uses.lost and is_matrix else None
        return Layout(*named, full, lost=lost, scanned=scanned)
    batch, rows, cols = (tuple(sorted(dims)) for dims in (batch, rows, cols))
    return Layout(*named, chosen, batch, rows, cols, scanned=scanned)
