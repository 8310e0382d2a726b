"""Decides how each leaf of a model is perturbed, by looking at how the model uses it.

A leaf that is contracted (a matmul, a convolution) is a matrix: the contracted
dimensions are its rows, the rest its columns. Dimensions that are taken apart (by a
loop over layers, a batched product, a lookup of experts) are a batch of matrices, each
with noise of its own; but where single positions are vectors, as an embedding's are,
the leaf is one matrix with a row for each. A leaf that is only added or multiplied
elementwise gets full-rank noise. Rules by path override.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from eggroll.lowrank import Perturbed
from eggroll.transform import evaluate


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a leaf is perturbed: see `low_rank`, `full_rank` and `frozen`.

    Attributes:
        rank: of the perturbation; None for full rank; 0 for a leaf that is not evolved.
        sigma_scale: the leaf's sigma, as a multiple of the strategy's.
    """

    rank: int | None
    sigma_scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.sigma_scale > 0:
            raise ValueError(
                f"sigma_scale must be positive, got {self.sigma_scale}; "
                f"use eggroll.frozen for a leaf that must not move"
            )


def low_rank(rank: int = 1, sigma_scale: float = 1.0) -> Rule:
    """Perturbs a leaf by A Bᵀ / √rank (arXiv 2511.16652, section 3).

    Raises:
        ValueError: if `rank` is below 1 or `sigma_scale` is not positive.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    return Rule(rank, sigma_scale)


def full_rank(sigma_scale: float = 1.0) -> Rule:
    """Perturbs each element of a leaf independently, as OpenAI-ES does."""
    return Rule(None, sigma_scale)


frozen = Rule(0)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one leaf is perturbed.

    Attributes:
        path: the leaf's name in the parameters, such as "layers/0/kernel".
        shape: of the leaf.
        dtype: of the leaf, by name.
        rule: the perturbation. Rank 0: none.
        batch: dimensions along which everything is independent.
        rows: dimensions of the left factor.
        cols: dimensions of the right factor. Empty for full rank.
        lost: the operation at which a matrix lost its low rank, if one did.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    rule: Rule
    batch: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    cols: tuple[int, ...] = ()
    lost: str = ""

    @property
    def is_frozen(self) -> bool:
        return self.rule.rank == 0

    @property
    def rank(self) -> int:
        """The size of the factors' last dimension."""
        return self.rule.rank if self.cols and self.rule.rank else 1

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
    rules: Sequence[tuple[str, Rule]] = (),
) -> tuple[Layout | None, ...]:
    """Decides how each leaf of `params` is perturbed.

    Args:
        jaxpr: the model's trace; its first arguments are the array leaves of `params`.
        params: the parameters.
        default: the rule for contracted leaves that no pattern matches.
        rules: `(pattern, rule)`; the first glob pattern that matches a path decides.

    Returns:
        One layout a leaf, in `jax.tree.leaves` order; None for what is no array.

    Raises:
        ValueError: if no leaf would be perturbed, or a pattern matches no leaf.
    """
    named = named_leaves(params)
    _check_rules(rules, [path for path, _ in named])
    uses = _record_uses(jaxpr, named)
    plan = tuple(
        _layout(path, leaf, _match(path, rules, default), uses[path], rules)
        if is_array(leaf)
        else None
        for path, leaf in named
    )
    if all(x is None or x.is_frozen for x in plan):
        kinds = {str(jnp.result_type(x)) for _, x in named if is_array(x)} or "none"
        raise ValueError(
            f"nothing to evolve: expected at least one floating-point leaf that is not "
            f"frozen, got {len(named)} leaves of types {kinds}; check the parameters "
            f"and the rules"
        )
    return plan


def refuse_lost(plan: Sequence[Layout | None]) -> None:
    """Refuses a plan by which a matrix has lost its low rank.

    Raises:
        ValueError: naming the leaf and the operation.
    """
    for layout in plan:
        if layout is not None and layout.lost:
            raise ValueError(
                f"strict: `{layout.lost}` takes slices out of a dimension of the leaf "
                f"{layout.path} of shape {layout.shape} that is stack and matrix in "
                f"one, so it needs full-rank noise; keep the stack as a dimension of "
                f"its own, give the leaf a rule (full_rank() or frozen), or allow it "
                f"with strict=False"
            )


def named_leaves(params: Any) -> list[tuple[str, Any]]:
    """Returns the leaves of a pytree with their paths, such as "layers/0/kernel"."""
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    name = jax.tree_util.keystr
    return [(name(p, simple=True, separator="/") or "params", x) for p, x in flat]


def is_array(x: Any) -> bool:
    """Whether a leaf is an array of numbers (no function, string or random key)."""
    return isinstance(x, (jax.Array, np.ndarray, jax.ShapeDtypeStruct)) and not (
        jnp.issubdtype(x.dtype, jax.dtypes.extended)
    )


def match_path(path: str, pattern: str) -> bool:
    """Whether a glob pattern names a path; `**/x` names `x` at the top, too."""
    return fnmatch.fnmatchcase(path, pattern) or (
        pattern.startswith("**/") and fnmatch.fnmatchcase(path, pattern[3:])
    )


def _match(path: str, rules: Sequence[tuple[str, Rule]], default: Rule) -> Rule:
    return next((rule for p, rule in rules if match_path(path, p)), default)


def _check_rules(rules: Sequence[tuple[str, Rule]], paths: list[str]) -> None:
    for pattern, _ in rules:
        if not any(match_path(path, pattern) for path in paths):
            raise ValueError(
                f"the rule {pattern!r} matches no leaf; there are: {', '.join(paths)}"
            )


@dataclasses.dataclass
class _Uses:
    """What becomes of the dimensions of one leaf."""

    ndim: int
    batch: set[int] = dataclasses.field(default_factory=set)
    contracted: list[set[int]] = dataclasses.field(default_factory=list)
    indexed: set[int] = dataclasses.field(default_factory=set)
    parts: set[int] = dataclasses.field(default_factory=set)
    split: dict[int, str] = dataclasses.field(default_factory=dict)

    def record(self, event: str, probe: Perturbed, primitive: str, dims: Any) -> None:
        """Notes a use of the leaf's probe; factor k says where its dimension k is."""
        # (What was joined may have one factor more than the leaf has dimensions.)
        shapes = probe.shapes[: self.ndim]
        varies = [{d for d, n in enumerate(shape) if n != 1} for shape in shapes]
        touched = {k for k, along in enumerate(varies) if along & {*dims}}
        part = {k for k in touched if varies[k] - {*dims}}
        if probe.looked_up:
            # The positions looked up are no dimension of the leaf any more, and what
            # an activation's other dimensions are split into does not concern it.
            touched -= self.indexed | (part if event == "batch" else set())
        if event == "contract" and touched:
            self.contracted.append(touched)
        elif event == "batch":
            self.batch |= touched
        elif event == "part" and not probe.looked_up:
            self.parts |= touched
        elif event == "index" and not probe.looked_up:
            self.indexed |= touched
            self.split |= dict.fromkeys(part, primitive)

    def sides(self, shape: Sequence[int]) -> tuple[set[int], set[int]]:
        """Returns the dimensions that are a batch, and those of the left factor.

        Single positions are how a loop takes the layers of a stack, and a token its
        experts: they are a batch, if a matrix is left without them. They are also how
        an embedding looks up its tokens, and then they are rows.
        """
        contracted = [c - self.batch for c in self.contracted if c - self.batch]
        stack = (self.indexed | self.parts) - self.batch - {*()}.union(*contracted)
        table = self.indexed - self.batch
        rest = [d for d in range(len(shape)) if d not in self.batch | stack]
        rows = contracted[0] if contracted else {*rest[:-1]} if table else set()
        if min(_size(shape, rows), _size(shape, {*rest} - rows)) > 1:
            return self.batch | stack, rows
        return self.batch, table or rows

    def lost_at(self, rows: set[int]) -> str:
        """The operation that takes apart what another contracts as a whole, if any."""
        return next((name for d, name in self.split.items() if d in rows), "")


def _record_uses(jaxpr: ClosedJaxpr, named: list[tuple[str, Any]]) -> dict[str, _Uses]:
    """Evaluates the model abstractly on probes, to see what becomes of each dimension.

    A probe is a perturbed array with one factor a dimension of the leaf: wherever an
    operation takes it, the factors that vary along a dimension say where it comes from.
    """
    uses = {path: _Uses(x.ndim) for path, x in named if is_array(x)}

    def observe(event: str, leaf: Perturbed, primitive: str, dims: Any) -> None:
        for path in leaf.paths:
            uses[path].record(event, leaf, primitive, dims)

    def probe(path: str, leaf: Any) -> Any:
        if not _is_floating(leaf) or not leaf.ndim or not math.prod(leaf.shape):
            return jnp.zeros_like(leaf)
        factors = [
            jnp.zeros([n if d == k else 1 for d, n in enumerate(leaf.shape)] + [1])
            for k in range(leaf.ndim)
        ]
        weight = jnp.zeros(leaf.shape, leaf.dtype)
        return Perturbed(weight, factors, jnp.float32(1), (path,))

    def run() -> Any:
        probes = [probe(path, x) for path, x in named if is_array(x)]
        rest = [
            jnp.zeros(v.aval.shape, v.aval.dtype)
            for v in jaxpr.jaxpr.invars[len(probes) :]
        ]
        return evaluate(jaxpr, [*probes, *rest], observe)

    jax.eval_shape(run)
    return uses


def _is_floating(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _layout(
    path: str,
    leaf: Any,
    rule: Rule,
    uses: _Uses,
    rules: Sequence[tuple[str, Rule]],
) -> Layout:
    named = (path, tuple(leaf.shape), str(jax.dtypes.canonicalize_dtype(leaf.dtype)))
    if not _is_floating(leaf) or not math.prod(leaf.shape):
        return Layout(*named, frozen)
    if rule.rank is None or rule.rank == 0:
        return Layout(*named, rule)
    forced = any(match_path(path, p) for p, _ in rules)
    batch, rows = uses.sides(leaf.shape)
    if lost := uses.lost_at(rows):  # its slices have to be independent
        return Layout(*named, dataclasses.replace(rule, rank=None), lost=lost)
    inner = [d for d in range(leaf.ndim) if d not in batch]
    if not rows and forced:
        rows = {*inner[:-1]}
    rows = tuple(d for d in inner if d in rows)
    cols = tuple(d for d in inner if d not in rows)
    if min(_size(leaf.shape, rows), _size(leaf.shape, cols)) == 1:
        return Layout(*named, dataclasses.replace(rule, rank=None))
    return Layout(*named, rule, tuple(sorted(batch)), rows, cols)


def _size(shape: Sequence[int], dims: Iterable[int]) -> int:
    return math.prod(shape[d] for d in dims)
