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

from eggroll import memory, noise as noise_, sharding, votes
from eggroll.evaluation import Trace, evaluate_members, perturb, trace
from eggroll.lowrank import Shift
from eggroll.plan import Layout, Rule, match_path, named_leaves
from eggroll.strategy import Generation
from eggroll.transform import ignore


IntegerNoise = Literal["rademacher", "gaussian", "truncated"]

# The distributions, and log2 of the standard deviation of a product of two values.
NOISES = {
    "rademacher": ("rademacher", 0),
    "gaussian": ("int8_gaussian", 8),
    "truncated": ("int8_truncated", 8),
}
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
        _check(self)

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
            traced = trace(apply, params, args, in_axes, self.population)
            plan = tuple(self._layout(path, x) for path, x in named_leaves(params))
            tree = jax.tree.structure(params)
            generation = Generation(noise_.base_key(key), jnp.asarray(step), plan, tree)
            outputs = self._evaluate(traced, generation)
            return jax.tree.unflatten(traced.out_tree, outputs), generation

        return run

    def votes(
        self, generation: Generation, fitness: Num[Array, " population"]
    ) -> PyTree:
        """Returns Σ_p F_p A_p B_pᵀ for each leaf, F_p a pair's weight.

        A pair votes for the better of its members, or, on a tie or a fitness that is
        not a number, for neither.

        Args:
            generation: from `ask`.
            fitness: one number a member, higher is better.

        Returns:
            int32 arrays like the parameters; zeros for frozen leaves.
        """
        if fitness.shape != (self.population,):
            raise ValueError(
                f"fitness must be one number a member: expected shape "
                f"({self.population},), got {fitness.shape}"
            )
        key = noise_.generation_key(generation.key, generation.step, self.reuse)
        layouts = generation.layouts

        name, _ = NOISES[self.noise]

        def local(key: PRNGKeyArray, rows: tuple[Array, Array]) -> list[Array]:
            count = lambda rows: votes.count(layouts, key, name, *rows)
            return votes.sum_chunks(
                count, rows, self._chunk(memory.noise_bytes(layouts))
            )

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
        """Returns one member's parameters, written out: to inspect or export it."""
        drawn = self._draw(generation, jnp.atleast_1d(jnp.asarray(index)))
        drawn = jax.tree.map(lambda x: x[0] if x.ndim else x, drawn)  # shifts: shared
        leaves = jax.tree.leaves(params)
        one = perturb(leaves, generation.layouts, drawn)
        written = [x if isinstance(x, jax.Array) else x.materialise() for x in one]
        return jax.tree.unflatten(generation.tree, written)

    def _evaluate(self, traced: Trace, generation: Generation) -> list[Array]:
        layouts, size = generation.layouts, self.population
        chunk = self._chunk(memory.member_bytes(traced.jaxpr, layouts))
        is_row = [
            mapped and x.shape[0] == size
            for x, mapped in zip(traced.data, traced.is_mapped, strict=True)
        ]
        own = [x for x, row in zip(traced.data, is_row, strict=True) if row]
        common = [x for x, row in zip(traced.data, is_row, strict=True) if not row]

        def local(shared: tuple, rows: tuple) -> list[Array]:
            params, common, generation = shared
            here = traced._replace(params=params)

            def part(rows: tuple) -> list[Array]:
                index, own = rows
                own, others = iter(own), iter(common)
                values = [
                    next(own) if row else _of_members(next(others), mapped, index, size)
                    for mapped, row in zip(traced.is_mapped, is_row, strict=True)
                ]
                drawn = self._draw(generation, index)
                return evaluate_members(here, layouts, drawn, values, None, ignore)

            return sharding.map_chunks(part, rows, chunk)

        shared = (traced.params, common, generation)
        return sharding.spread(local, self.mesh)(shared, (jnp.arange(size), own))

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


def compiler_options() -> dict[str, Any]:
    """Returns what `jax.jit(..., compiler_options=...)` should say for integer models.

    XLA's CPU backend (its other backends need no telling) forgets optimisation
    barriers before it fuses, and then computes whole chains of elementwise operations
    anew in each of their consumers; and it splits sums of products into two kernels.
    Without these two passes a population is evaluated at more than twice the speed.
    Results are the same.
    """
    if jax.default_backend() != "cpu":
        return {}
    return {"xla_disable_hlo_passes": "cse_barrier_expander,tree_reduction_rewriter"}


def _of_members(
    x: Array, mapped: bool, index: Int[Array, " members"], population: int
) -> Array:
    """The rows of an argument that some members read, given a row for each group."""
    return x[index // (population // x.shape[0])] if mapped else x


def _check(es: IntegerStrategy) -> None:
    """Refuses settings that cannot work, each with the fix."""
    if es.population < 2 or es.population % 2:
        raise ValueError(
            f"population must be positive and even, as members come in pairs, got "
            f"{es.population}; use {max(2, es.population + 1)}"
        )
    if es.noise not in NOISES:
        raise ValueError(f"noise must be one of {', '.join(NOISES)}, got {es.noise!r}")
    if es.rounding not in ("nearest", "floor"):
        raise ValueError(f'rounding must be "nearest" or "floor", got {es.rounding!r}')
    if es.weighting not in votes.WEIGHTS:
        raise ValueError(
            f'weighting must be "difference" or "sign", got {es.weighting!r}'
        )
    if es.weighting == "difference" and es.noise != "rademacher":
        raise ValueError(
            f'weighting="difference" needs noise="rademacher", as other products '
            f'overflow int8; with {es.noise!r} noise use weighting="sign"'
        )
    if not 0 <= es.sigma_shift <= 8:
        raise ValueError(
            f"sigma_shift must be between 0 (sigma 1) and 8 (sigma 1/256), got "
            f"{es.sigma_shift}: 4 is the published choice"
        )
    for name in ("rank", "reuse", "chunk", "memory"):
        value = getattr(es, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    for pattern, rule in es.rules.items():
        if math.log2(rule.sigma_scale) % 1:
            raise ValueError(
                f"the sigma_scale of an integer leaf is a shift, so it must be a power "
                f"of two; got {rule.sigma_scale} for {pattern!r}"
            )
    unit = 2 * sharding.devices_of(es.mesh)
    if es.population % unit:
        raise ValueError(
            f"population must be a multiple of {unit}, whole pairs on each device, got "
            f"{es.population}; use {-(-es.population // unit) * unit}"
        )
