"""What a program of the battery is, and what should become of each of its leaves."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import eggroll


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A parameter, and what coverage has to say of it.

    Attributes:
        shape: of the array.
        kind: "low", "full" (by nature), "lost" (its low rank), "frozen" or "unused".
        stack: the dimensions along which there is a matrix for each position.
        cols: those of one side of each matrix; the rest are the other.
        at: the operation at which it is lost, or written out.
        dtype: of the array.
        mean: of its numbers.
        spread: of its numbers; None for one over the root of the rows.
        is_met: whether a plain member computes values of the size of its matrices, or
            thin factors have it, as those of a depthwise convolution.
    """

    shape: tuple[int, ...]
    kind: str = "low"
    stack: tuple[int, ...] = ()
    cols: tuple[int, ...] = ()
    at: str = ""
    dtype: str = "float32"
    mean: float = 0.0
    spread: float | None = None
    is_met: bool = False

    def filled(self, generator: np.random.Generator) -> jax.Array:
        """Numbers of a size that keeps activations in bounds."""
        sizes = [n for d, n in enumerate(self.shape) if d not in self.stack]
        rows = np.prod(sizes[:-1]) if len(sizes) > 1 else 4
        spread = 1 / np.sqrt(rows) if self.spread is None else self.spread
        values = self.mean + spread * generator.normal(size=self.shape)
        return jnp.asarray(values, self.dtype)

    @property
    def evolves(self) -> bool:
        """Whether it has noise."""
        return self.kind not in ("frozen", "unused")

    @property
    def says(self) -> tuple:
        """The same in the terms of `told`."""
        if self.kind != "low":
            return (self.kind, self.at)
        cols = self.cols or (len(self.shape) - 1,)
        rows = {*range(len(self.shape))} - {*self.stack, *cols}
        return ("low", self.at, {*self.stack}, _sides(self.shape, rows, cols))


def _sides(shape: Sequence[int], *sides: Iterable[int]) -> set[frozenset[int]]:
    """The dimensions of each side of a matrix that are some."""
    return {frozenset(d for d in side if shape[d] > 1) for side in sides}


def low(*shape: int, **more: Any) -> Leaf:
    """A matrix, or a stack of them, that keeps its low rank."""
    return Leaf(shape, **more)


def full(*shape: int, **more: Any) -> Leaf:
    """A leaf that is full rank by nature."""
    return Leaf(shape, "full", **more)


def lost(at: str, *shape: int, **more: Any) -> Leaf:
    """A matrix that is demoted to full rank by an operation."""
    return Leaf(shape, "lost", at=at, **more)


def frozen(*shape: int, **more: Any) -> Leaf:
    """A leaf that a rule freezes."""
    return Leaf(shape, "frozen", **more)


def unused(*shape: int, **more: Any) -> Leaf:
    """A leaf that the function does not read."""
    return Leaf(shape, "unused", **more)


@dataclasses.dataclass(frozen=True)
class Program:
    """A small function of parameters and data.

    Attributes:
        apply: of the parameters and the argument.
        leaves: the parameters, each a `Leaf` (what is none is taken as it is).
        x: the argument; a tuple of integers is the shape of one.
        rules: of the strategy.
        tolerance: relative to the largest result, of rounding.
        quick: whether it is cheap enough for the fast tests.
    """

    apply: Callable[[Any, Any], Any]
    leaves: Any
    x: Any
    rules: Mapping[str, eggroll.Rule] = dataclasses.field(default_factory=dict)
    tolerance: float = 2e-5
    quick: bool = False

    def params(self) -> Any:
        """The parameters, the same at each call."""
        generator = np.random.default_rng(0)
        fill = lambda x: x.filled(generator) if isinstance(x, Leaf) else x
        return jax.tree.map(fill, self.leaves)

    def argument(self) -> Any:
        """The argument, the same at each call."""
        if isinstance(self.x, tuple) and all(isinstance(n, int) for n in self.x):
            return Leaf(self.x, spread=1.0).filled(np.random.default_rng(1))
        return self.x

    def declared(self) -> list[Leaf]:
        """What is to become of the leaves, in their order."""
        as_is = lambda x: frozen(*x.shape) if isinstance(x, jax.Array) else x
        leaves = map(as_is, jax.tree.leaves(self.leaves))
        return [x for x in leaves if isinstance(x, Leaf)]


PROGRAMS: dict[str, Program] = {}


def program(leaves: Any, x: Any, **more: Any) -> Callable[[Callable], Callable]:
    """Puts a function among the programs, under its name."""

    def add(apply: Callable) -> Callable:
        name = apply.__name__.strip("_").replace("_", " ")
        assert name not in PROGRAMS, f"there are two programs called {name}"
        PROGRAMS[name] = Program(apply, leaves, x, **more)
        return apply

    return add


def told(leaf: Any) -> tuple:
    """What coverage says of a leaf, in short."""
    layout = leaf.layout
    if layout.is_frozen:
        return (layout.idle or "frozen", "")
    if not layout.cols:
        return ("lost", layout.lost.primitive) if layout.lost else ("full", "")
    sides = _sides(layout.shape, layout.rows, layout.cols)
    return ("low", ", ".join(leaf.materialised), {*layout.batch}, sides)
