"""Small programs, evaluated in ways that have as little as possible in common.

A compiler's fault shows in programs of some sizes and not in those of others. So what
is computed for a whole population at once is held against what is computed in many
small chunks, and that against members written out, in NumPy.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import cycle, islice, pairwise, product
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import quick
import reference_egg as reference
from jax import lax

import eggroll
from eggroll import EvolutionStrategy, Generation, IntegerStrategy
from eggroll.evolution import noise as noises
from eggroll.integer.strategy import NOISES, inverse_root


KEY = jax.random.key(0)
BATCH = 3
ROUNDING = 2.0**-24  # of a float32 number, at most, relative to it


@dataclasses.dataclass(frozen=True)
class Program:
    """A network of float32 weights, what its members read, how they are perturbed.

    Attributes:
        widths: of the layers, from the inputs to the outputs.
        inputs: one "shared" by all members, one of their "own" each, or some "batched"
            for all.
        rank: of the perturbations; None for full rank.
        noise: "rademacher" or "gaussian".
        population: members; an odd number has no pairs.
        result: of a member: its "outputs", or one number, its "fitness".
    """

    widths: tuple[int, ...]
    inputs: str
    rank: int | None
    noise: str
    population: int
    result: str = "fitness"
    kind: ClassVar[str] = "float32"

    def __str__(self) -> str:
        widths = "-".join(map(str, self.widths))
        rank = f"rank {self.rank}" if self.rank else "full rank"
        given = (self.kind, widths, self.inputs, rank, self.noise, self.result)
        return f"{', '.join(given)}, {self.population} members"

    @property
    def shapes(self) -> list[tuple[int, int]]:
        return list(pairwise(self.widths))

    @property
    def bytes(self) -> int:
        """About what a population takes that is evaluated at once."""
        values = sum(
            (n + m) * self.rank if self.rank else n * m for n, m in self.shapes
        )
        rows = BATCH if self.inputs == "batched" else 1
        return self.population * (7 * values + 8 * rows * sum(self.widths))

    @cached_property
    def params(self) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        scaled = lambda n, m: rng.normal(size=(n, m)) / math.sqrt(n)
        return [scaled(*shape).astype(np.float32) for shape in self.shapes]

    @cached_property
    def x(self) -> np.ndarray:
        rng = np.random.default_rng(1)
        return rng.normal(size=self._shape_of_x).astype(np.float32)

    @property
    def _shape_of_x(self) -> tuple[int, ...]:
        rows = {"shared": (), "own": (self.population,), "batched": (BATCH,)}
        return (*rows[self.inputs], self.widths[0])

    def strategy(self, chunk: int) -> Any:
        return EvolutionStrategy(
            self.population,
            sigma=0.5 / math.sqrt(max(self.widths)),
            rank=self.rank,
            noise=self.noise,
            antithetic=self.population % 2 == 0,
            chunk_size=chunk,
        )

    def outputs(self, params: list, x: jax.Array) -> jax.Array:
        """The network's, for one member, in JAX."""
        for weight in params[:-1]:
            x = jnp.tanh(x @ weight)
        return x @ params[-1]

    def size(self, outputs: Any) -> Any:
        """How large each output is; a fitness is the sum of it."""
        return outputs**2

    def run(self, chunk: int) -> tuple[np.ndarray, Generation]:
        """The members' results, and which generation it is."""

        def member(params: list, x: jax.Array) -> jax.Array:
            out = self.outputs(params, x)
            return jnp.sum(self.size(out)) if self.result == "fitness" else out

        in_axes = 0 if self.inputs == "own" else None
        ask = self.strategy(chunk).ask(member, in_axes=in_axes)
        # It is the compiler as users have it that is on trial.
        results, generation = quick.thorough(ask)(self.params, KEY, self.x)
        return np.asarray(results, np.float64), generation

    def expected(self, generation: Generation, members: np.ndarray) -> np.ndarray:
        """The results of some members, in NumPy's float64."""
        x = self.x[members, None] if self.inputs == "own" else np.atleast_2d(self.x)
        out = self.written_out(generation, members, x)
        if self.result == "fitness":
            return self.size(out).sum(axis=(1, 2))
        return out if self.inputs == "batched" else out[:, 0]

    def written_out(
        self, generation: Generation, members: np.ndarray, x: np.ndarray
    ) -> np.ndarray:
        """The outputs of some members, (members, batch, outputs)."""
        es = self.strategy(len(members))
        member = lambda index: es.member(generation, self.params, index)
        params = quick.jit(jax.vmap(member))(members)
        *hidden, last = (np.asarray(x, np.float64) for x in params)
        for weight in hidden:
            x = np.tanh(x @ weight)
        return x @ last

    def tolerance(self, results: np.ndarray) -> float:
        """What roundings may amount to.

        Those of a sum of n terms are as good as independent, so that they add up to
        √n of one of them; and a layer hands on what comes to it without magnifying it.
        """
        return 8 * ROUNDING * math.sqrt(sum(self.widths)) * np.max(np.abs(results))


class IntegerProgram(Program):
    """The same with int8 weights and activations, in which 16 stands for 1."""

    kind = "int8"

    @cached_property
    def params(self) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        return [rng.integers(-40, 41, shape).astype(np.int8) for shape in self.shapes]

    @cached_property
    def x(self) -> np.ndarray:
        return np.random.default_rng(1).integers(-60, 61, self._shape_of_x, np.int8)

    def strategy(self, chunk: int) -> IntegerStrategy:
        return IntegerStrategy(
            self.population,
            sigma_shift=1,
            rank=self.rank or 1,
            noise=self.noise,
            weighting="sign",
            rules={} if self.rank else {"*": eggroll.full_rank()},
            chunk_size=chunk,
        )

    def outputs(self, params: list, x: jax.Array) -> jax.Array:
        total = x
        for weight in params:
            dims = ((x.ndim - 1,), (0,)), ((), ())
            total = lax.dot_general(x, weight, dims, preferred_element_type=jnp.int32)
            x = jnp.clip(total >> self._bits(weight), -127, 127).astype(jnp.int8)
        return total

    def size(self, outputs: Any) -> Any:
        return abs(outputs)  # a square might not fit in 32 bits

    def written_out(
        self, generation: Generation, members: np.ndarray, x: np.ndarray
    ) -> np.ndarray:
        es = self.strategy(len(members))
        name, unit = NOISES[self.noise]
        key = noises.generation_key(generation.key, generation.step)
        layouts = generation.layouts
        drawn = noises.draw(layouts, key, jnp.asarray(members // 2), name)
        bits, gain = inverse_root(layouts[0].rank)
        bits += unit + es.sigma_shift - reference.FIXED_POINT
        sign = (1 - 2 * (members % 2))[:, None, None]
        total = x = np.asarray(x, np.int64)
        for weight, factors in zip(self.params, drawn, strict=True):
            noise = math.prod(np.asarray(f, np.int64) for f in factors).sum(-1)
            own = reference.shift(gain * (x @ noise), bits, "default")
            total = x @ weight.astype(np.int64) + sign * own
            x = np.clip(total >> self._bits(weight), -127, 127)
        return total

    def _bits(self, weight: Any) -> int:
        """The shift that keeps activations as large as they are."""
        return reference.FIXED_POINT + round(math.log2(weight.shape[0]) / 2)

    def tolerance(self, results: np.ndarray) -> float:
        return 0.0


def battery(
    kind: type[Program],
    shapes: Sequence[tuple[int, ...]],
    inputs: Sequence[str],
    ranks: Sequence[int | None],
    populations: Sequence[int],
    each: int = 1,
) -> Iterator[Program]:
    """Programs of all shapes, inputs and ranks; sizes, noises and results take turns.

    Args:
        kind: of program.
        shapes: the widths.
        inputs: what members read.
        ranks: of the perturbations.
        populations: the sizes. One that would take more than a gigabyte is passed over
            for the next.
        each: how many of the sizes a program is of.
    """
    sizes, results = cycle(populations), cycle(["fitness", "outputs"])
    noises = cycle(["rademacher", "rademacher", "gaussian", "gaussian"])
    for widths, given, rank in product(shapes, inputs, ranks):
        tried = islice(sizes, len(populations))
        made = (
            kind(widths, given, rank, next(noises), n, next(results)) for n in tried
        )
        yield from islice((one for one in made if one.bytes <= 2**30), each)


def checked(population: int, count: int = 64) -> np.ndarray:
    """Some members: the first and the last ones, and others by chance."""
    rng = np.random.default_rng(0)
    ends = np.r_[:4, population - 4 : population]
    return np.union1d(ends, rng.choice(population, count, replace=False))


def agree(results: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Asserts that all members' results are within a tolerance."""
    error = np.abs(results - expected).reshape(len(results), -1).max(axis=1)
    (wrong,) = np.nonzero(~(error <= tolerance))
    assert not wrong.size, (
        f"{wrong.size:,} of {len(results):,} members have another result, the first of "
        f"them member {wrong[0]}: by up to {error.max():.3g}, where rounding allows "
        f"for {tolerance:.3g}"
    )
