"""What noise a generation used: enough to draw it again, anywhere."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from eggroll.perturbation.layout import Layout


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["key", "step", "sigma"],
    meta_fields=["plan", "tree", "settings"],
)
@dataclasses.dataclass(frozen=True)
class Generation:
    """What noise one generation used: enough to draw it again.

    It is a pytree, can be pickled, and carries no weights: a few hundred bytes that go
    to another process, or to a disk, and back.

    Attributes:
        key: the base key.
        step: number of the generation.
        sigma: of the step; None for integer strategies, whose settings tell it.
        plan: how each leaf of the parameters is perturbed; None for what is no array.
        tree: the structure of the parameters.
        settings: what else decides the noise, by name: of the strategy that asked.
    """

    key: PRNGKeyArray
    step: Int[Array, ""]
    sigma: Float[Array, ""] | None
    plan: tuple[Layout | None, ...]
    tree: Any
    settings: tuple[tuple[str, Any], ...]

    @property
    def layouts(self) -> list[Layout]:
        """The plan of the leaves that are arrays."""
        return [x for x in self.plan if x is not None]

    def check(self, settings: tuple[tuple[str, Any], ...]) -> None:
        """Refuses a strategy whose noise this is not.

        Raises:
            ValueError: naming each setting that differs.
        """
        # Of two kinds of strategies the names differ, too.
        ours, theirs = dict(self.settings), dict(settings)
        same = lambda a, b: a == b or "traced" in (a, b)  # a value to be found below
        differ = [k for k in {**ours, **theirs} if not same(ours.get(k), theirs.get(k))]
        if differ:
            said = ", ".join(
                f"{name} {ours.get(name)!r} where this strategy has "
                f"{theirs.get(name)!r}"
                for name in differ
            )
            raise ValueError(
                f"this generation was asked for by another strategy: {said}. Its noise "
                f"can only be drawn again by a strategy with the same settings"
            )

    def arrays(self, params: PyTree) -> list[Array]:
        """Returns the arrays of the parameters, one for each of `layouts`.

        Raises:
            ValueError: if they are not parameters as the generation was asked with.
        """
        leaves = jax.tree.leaves(params)
        shapes = [getattr(x, "shape", ()) for x in leaves]
        wanted = [() if x is None else x.shape for x in self.plan]
        if len(leaves) != len(wanted) or any(
            x is not None and shape != x.shape
            for x, shape in zip(self.plan, shapes, strict=True)
        ):
            raise ValueError(
                f"expected parameters like those the generation was asked with, leaves "
                f"of shapes {wanted}, got {shapes}"
            )
        return [x for x, p in zip(leaves, self.plan, strict=True) if p is not None]

    def arranged(self, values: Iterable[Any], params: PyTree = None) -> PyTree:
        """Arranges values, one for each of `layouts`, as the parameters are.

        What is no array is as in `params`; without them it is None.
        """
        given = iter(values)
        rest = (
            jax.tree.leaves(params) if params is not None else [None] * len(self.plan)
        )
        leaves = zip(rest, self.plan, strict=True)
        return jax.tree.unflatten(
            self.tree, [x if layout is None else next(given) for x, layout in leaves]
        )
