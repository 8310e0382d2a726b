r"""Evolution strategies on integers: int8 weights, votes, no floating point at all.

A member's weight is W ± (A Bᵀ ≫ bits), rounded to nearest, so that the two members of
an antithetic pair mirror each other exactly; and so is every product with it,

    x (W ± (A Bᵀ ≫ bits)) → x W ± ((x A) Bᵀ ≫ bits)      int8 operands, int32 sums

What is learnt from a generation are votes, Σ_p F_p A_p B_pᵀ, F_p from f⁺_p - f⁻_p;
`eggroll.stepping` turns them into steps of ±1. Sums of integers are exact: the result
is the same, bit for bit, for any chunking and any number of devices.

References:
    "Evolution Strategies at the Hyperscale", arXiv 2511.16652, section 7 and appendix.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int, Num, PRNGKeyArray, PyTree

from eggroll import compilers, memory, noise as noise_, sharding, votes
from eggroll.evaluation import Trace, evaluate_members, perturb, trace
from eggroll.generation import Generation
from eggroll.integer_settings import NOISES, IntegerNoise, check_settings
from eggroll.lowrank import Shift
from eggroll.plan import Layout, Rule, match_path, named_leaves
from eggroll.population import evaluate_population
from eggroll.transform import ignore
from eggroll.validation import check_index, one_per_member


FIXED_POINT = 4  # bits after the binary point of a weight: 16 stands for 1.0
GAIN_BITS = 4


@dataclasses.dataclass(frozen=True)
class IntegerStrategy:
    """The integer counterpart of `EvolutionStrategy`: populations of int8 models.

    Members 2p and 2p + 1 are a pair: the same noise with opposite signs.

    Attributes:
        population: members N that a generation evaluates; even.
        sigma_shift: the standard deviation of a weight's perturbation is
            2^-sigma_shift, where the integer 16 stands for 1: one unit in the last
            place for a shift of 4.
        rank: of each matrix's perturbation. Powers of 4 are exact; for others 1/√rank
            is rounded to five bits.
        noise: distribution of the factors' entries: "rademacher" (±1), "gaussian"
            (16 N(0, 1), rounded) or "truncated" (the published program's: cut off
            towards zero, so that a twentieth of it is zeros).
        rounding: of a perturbation's shift: to "nearest", or "floor" as published,
            which shifts both members of a pair down by half a unit on average.
        weighting: what a pair votes with: the "sign" of its members' difference, as
            published, or the "difference" itself in eight bits, which says more and
            needs signs (rademacher) as noise.
        reuse: for how many steps in a row the noise stays the same.
        rules: by path pattern, `frozen`, `low_rank` or `full_rank`, with a
            `sigma_scale` that is a power of two. The first match decides.
        chunk: members evaluated at once on a device; None plans it from `memory`.
        memory: bytes of each device that a population may take; None for a quarter.
        mesh: spreads the population over its axis "population"; None: one device.

    Raises:
        ValueError: for a setting that cannot work; the message says what can.
    """

    population: int
    sigma_shift: int = 4
    rank: int = 1
    noise: IntegerNoise = "rademacher"
    rounding: Literal["nearest", "floor"] = "nearest"
    weighting: Literal["difference", "sign"] = "difference"
    reuse: int = 1
    rules: Mapping[str, Rule] = dataclasses.field(default_factory=dict)
    chunk: int | None = None
    memory: int | None = None
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def pairs(self) -> int:
        return self.population // 2

    def ask(
        self, apply: Callable, *, in_axes: Any = None
    ) -> Callable[..., tuple[PyTree, Generation]]:
        """Evaluates a function on every member.

        Args:
            apply: `apply(params, *args)` returns a pytree of arrays.
            in_axes: for each argument after `params`, None if all members share it, or
                0 if it has a row a member, or a row for each group of consecutive
                members.

        Returns:
            `run(params, key, *args, step=0) -> (outputs, generation)`: the outputs of
            all members, with a leading member dimension, and what `votes` needs to draw
            the same noise again.
        """

        def run(params: PyTree, key: PRNGKeyArray, *args: Any, step: Any = 0) -> Any:
            compilers.warn_if_known_bad()
            traced = trace(apply, params, args, in_axes, self.population)
            generation = Generation(
                noise_.base_key(key),
                jnp.asarray(step),
                None,
                tuple(self._layout(path, x) for path, x in named_leaves(params)),
                jax.tree.structure(params),
                self._noise_settings,
            )
            outputs = self._evaluate(traced, generation)
            return jax.tree.unflatten(traced.out_tree, outputs), generation

        return run

    def votes(self, generation: Generation, fitness: Num[Any, " population"]) -> PyTree:
        """Returns Σ_p F_p A_p B_pᵀ for each leaf, F_p a pair's weight.

        A pair votes for the better of its members, or, on a tie or a fitness that is
        not a number, for neither.

        Args:
            generation: from `ask`, of this strategy or one like it.
            fitness: one number a member, higher is better.

        Returns:
            int32 arrays like the parameters; zeros for frozen leaves.

        Raises:
            ValueError: if `fitness` has not one number a member, or if the generation
                was asked for by a strategy with other noise.
        """
        generation.check(self._noise_settings)
        fitness = one_per_member(fitness, self.population, "fitness")
        key = noise_.generation_key(generation.key, generation.step, self.reuse)
        layouts = generation.layouts

        name, _ = NOISES[self.noise]

        def local(key: PRNGKeyArray, rows: tuple[Array, Array]) -> list[Array]:
            def part(rows: tuple[Array, Array], counts: Array) -> list[Array]:
                pairs, weights = rows
                return votes.count(layouts, key, name, pairs, weights * counts)

            chunk = self._chunk(memory.noise_bytes(layouts))
            return sharding.sum_chunks(part, rows, chunk)

        weigh, _ = votes.WEIGHTS[self.weighting]
        rows = (jnp.arange(self.pairs), weigh(fitness))
        leaves = sharding.spread(local, self.mesh, reduce=True)(key, rows)
        return jax.tree.unflatten(generation.tree, leaves)

    def vote_std(self, generation: Generation) -> PyTree:
        """Returns, for each leaf, the standard deviation of votes on pure noise."""
        _, bits = NOISES[self.noise]
        _, weight = votes.WEIGHTS[self.weighting]
        unit = weight << bits
        leaves = [math.isqrt(self.pairs * x.rank) * unit for x in generation.layouts]
        return jax.tree.unflatten(generation.tree, leaves)

    def member(
        self, generation: Generation, params: PyTree, index: Int[Array, ""] | int
    ) -> PyTree:
        """Returns one member's parameters, written out: to inspect or export it.

        Raises:
            ValueError: if there is no such member, if the parameters are not like those
                the generation was asked with, or if it was asked for by a strategy with
                other noise.
        """
        generation.check(self._noise_settings)
        check_index(index, self.population)
        drawn = self._draw(generation, jnp.atleast_1d(jnp.asarray(index)))
        drawn = jax.tree.map(lambda x: x[0] if x.ndim else x, drawn)  # shifts: shared
        one = perturb(generation.arrays(params), generation.layouts, drawn)
        written = [x if isinstance(x, jax.Array) else x.materialise() for x in one]
        return jax.tree.unflatten(generation.tree, written)

    def _evaluate(self, traced: Trace, generation: Generation) -> list[Array]:
        layouts = generation.layouts

        def some(
            traced: Trace,
            generation: Generation,
            index: Int[Array, " members"],
            data: list[Array],
        ) -> list[Array]:
            drawn = self._draw(generation, index)
            return evaluate_members(traced, layouts, drawn, data, None, ignore)

        chunk = self._chunk(memory.member_bytes(traced.jaxpr, layouts))
        size, mesh = self.population, self.mesh
        return evaluate_population(
            some, traced, generation, size, mesh=mesh, chunk=chunk, multiple=2
        )

    def _draw(self, generation: Generation, index: Int[Array, " members"]) -> list[Any]:
        key = noise_.generation_key(generation.key, generation.step, self.reuse)
        repeat = 2 if index.shape[0] % 2 == 0 else 1  # chunks of whole pairs
        sign = (1 - 2 * (index % 2)).astype(jnp.int8)
        name, _ = NOISES[self.noise]
        pairs = index[::repeat] // 2
        drawn = noise_.draw(generation.layouts, key, pairs, name, repeat, sign)
        return [
            None if layout.is_frozen else (factors, self._shift(layout))
            for layout, factors in zip(generation.layouts, drawn, strict=True)
        ]

    def _layout(self, path: str, leaf: Any) -> Layout:
        rule = next((r for p, r in self.rules.items() if match_path(path, p)), None)
        rule = Rule(self.rank) if rule is None else rule
        named = (path, tuple(leaf.shape), str(leaf.dtype))
        if rule.rank == 0:
            return Layout(*named, rule)
        if leaf.dtype != jnp.int8 or not leaf.ndim:
            raise ValueError(
                f"an IntegerStrategy evolves int8 arrays, but {path} is "
                f"{leaf.dtype}{list(leaf.shape)}: store it as int8, or leave it as it "
                f"is with rules={{{path!r}: eggroll.frozen}}"
            )
        dims = tuple(range(leaf.ndim))
        if leaf.ndim == 1 or rule.rank is None:
            # An element's noise is a product of two values, like that of a matrix; the
            # product of two signs is a sign, for which one will do.
            rule = dataclasses.replace(rule, rank=None)
            cols = () if self.noise == "rademacher" else dims
            return Layout(*named, rule, (), dims, cols)
        return Layout(*named, rule, dims[:-2], dims[-2:-1], dims[-1:])

    def _shift(self, layout: Layout) -> Shift:
        """2^(4 - sigma_shift) units of the weight, over what the factors are worth."""
        _, unit_bits = NOISES[self.noise]
        scale_bits = round(math.log2(layout.rule.sigma_scale))
        bits = unit_bits + self.sigma_shift - FIXED_POINT - scale_bits
        rank_bits, gain = inverse_root(layout.rank)
        return Shift(
            jnp.int8(1), bits + rank_bits, gain, floor=self.rounding == "floor"
        )

    @property
    def _noise_settings(self) -> tuple[tuple[str, Any], ...]:
        """What decides the noise of a generation, beside its plan."""
        names = ("population", "sigma_shift", "noise", "rounding", "reuse")
        settings = [(name, getattr(self, name)) for name in names]
        return (*settings, ("scheme", noise_.SCHEME))

    def _chunk(self, bytes_each: int) -> int:
        """How many rows a device works on at once, a whole number of pairs."""
        budget = self.memory or memory.budget()
        chunk = self.chunk or memory.rows_within(budget, bytes_each)
        return max(2, chunk // 2 * 2)


def inverse_root(rank: int) -> tuple[int, int]:
    """Returns (bits, gain) with gain / 2^bits = 1/√rank: exact for powers of 4.

    >>> inverse_root(1), inverse_root(16), inverse_root(2)
    ((0, 1), (2, 1), (5, 23))
    """
    half = (rank.bit_length() - 1) // 2
    if 4**half == rank:
        return half, 1
    return half + 1 + GAIN_BITS, round(2 ** (half + 1 + GAIN_BITS) / math.sqrt(rank))
