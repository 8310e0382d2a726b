r"""Evolution strategies on integers: int8 weights, votes, no floating point at all.

A member's weight is W ± (A Bᵀ ≫ bits), rounded to nearest, so that the two members of
an antithetic pair mirror each other exactly; and so is every product with it,

    x (W ± (A Bᵀ ≫ bits)) → x W ± ((x A) Bᵀ ≫ bits)      int8 operands, int32 sums

What is learnt from a generation are votes, Σ_p F_p A_p B_pᵀ, F_p from f⁺_p - f⁻_p;
`eggroll.integer.updates` turns them into steps of ±1. Sums of integers are exact: the
result is the same, bit for bit, for any chunking and any number of devices.

References:
    "Evolution Strategies at the Hyperscale", arXiv 2511.16652, section 7 and appendix.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Num, PyTree

from eggroll.evolution.generation import Generation
from eggroll.evolution.population import Population
from eggroll.evolution.tracing import Trace
from eggroll.evolution.validation import check_same, one_per_member
from eggroll.integer import votes
from eggroll.integer.validation import NOISES, IntegerNoise, check_settings
from eggroll.perturbation.layout import Layout, is_array, named_leaves
from eggroll.perturbation.rules import Frozen, FullRank, LowRank, Rules
from eggroll.perturbation.scale import Shift


FIXED_POINT = 4  # bits after the binary point of a weight: 16 stands for 1.0
GAIN_BITS = 4


@dataclasses.dataclass(frozen=True)
class IntegerStrategy(Population):
    """The integer counterpart of `EvolutionStrategy`: populations of int8 models.

    Members 2p and 2p + 1 are a pair: the same noise with opposite signs. It can be
    hashed, and be a static argument of `jax.jit`.

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
        noise_reuse: for how many steps in a row the noise stays the same.
        rules: by path pattern, `frozen`, `low_rank` or `full_rank`, with a
            `sigma_scale` that is a power of two. The first match decides.
        chunk_size: members evaluated at once on a device; None plans it from
            `memory_bytes`.
        memory_bytes: of each device that a population may take; None for a quarter.
        mesh: spreads the population over its axis "population"; None: one device.
        partition: by path pattern, how a leaf lies over other axes of the mesh, as in
            `PartitionSpec(None, "model")`; so do its gradients. What none matches lies
            as it does.
        update: how the sum over members gets to all devices: "reduce", "scatter",
            "replay" or "mixed"; see `eggroll.evolution.reduction`.
        fixed_order: into how many units the population is cut, a power of two, so that
            floats are equal to the bit on any number of devices that divides it; None:
            they are equal to rounding. (Give `chunk_size`, too, where devices differ in
            memory.)

    Raises:
        ValueError: for a setting that cannot work; the message says what can.
    """

    sigma_shift: int = 4
    rank: int = 1
    noise: IntegerNoise = "rademacher"
    rounding: Literal["nearest", "floor"] = "nearest"
    weighting: Literal["difference", "sign"] = "difference"

    def __post_init__(self) -> None:
        check_settings(self)
        super().__post_init__()

    @property
    def pairs(self) -> int:
        return self.population // 2

    def votes(self, generation: Generation, fitness: Num[Any, " population"]) -> PyTree:
        """Returns Σ_p F_p A_p B_pᵀ for each leaf, F_p a pair's weight.

        A pair votes for the better of its members, or, on a tie or a fitness that is
        not a number, for neither.

        Args:
            generation: from `ask`, of this strategy or one like it.
            fitness: one number a member, higher is better.

        Returns:
            int32 arrays like the parameters; zeros for frozen leaves, None for what is
            no array.

        Raises:
            ValueError: if `fitness` has not one number a member, or if the generation
                was asked for by a strategy with other noise.
        """
        generation.check(self._noise_settings)
        fitness = one_per_member(fitness, self.population, "fitness")
        check_same(fitness, "fitness")
        if not isinstance(fitness, jax.Array):
            fitness = votes.from_host(fitness)
        weigh, _ = votes.WEIGHTS[self.weighting]
        weights = weigh(fitness)
        sums = self._sum_over_pairs(generation, weights, votes.contract)
        return generation.arranged(
            jnp.zeros(layout.shape, jnp.int32) if total is None else total
            for total, layout in zip(sums, generation.layouts, strict=True)
        )

    def vote_std(self, generation: Generation) -> PyTree:
        """Returns, for each leaf, the standard deviation of votes on pure noise."""
        _, bits = NOISES[self.noise]
        _, weight = votes.WEIGHTS[self.weighting]
        return generation.arranged(
            math.isqrt(self.pairs * layout.rank) * (weight << bits)
            for layout in generation.layouts
        )

    @property
    def _pairs(self) -> bool:
        return True

    @property
    def _distribution(self) -> str:
        return NOISES[self.noise][0]

    @property
    def _noise_settings(self) -> tuple[tuple[str, Any], ...]:
        names = ("noise", "sigma_shift", "rounding")
        own = ((name, getattr(self, name)) for name in names)
        return (*super()._noise_settings, *own)

    def _plan(
        self, traced: Trace, params: PyTree, *, is_loss: bool = False
    ) -> tuple[Layout | None, ...]:
        named, rules = named_leaves(params), Rules(self.rules)
        rules.check(path for path, _ in named)
        return tuple(self._layout(path, x, rules) for path, x in named)

    def _layout(self, path: str, leaf: Any, rules: Rules) -> Layout | None:
        """How a leaf is perturbed: its last two dimensions are a matrix."""
        if not is_array(leaf):
            return None
        rule = rules.find(path) or LowRank(self.rank)
        named = (path, tuple(leaf.shape), str(leaf.dtype))
        if isinstance(rule, Frozen):
            return Layout(*named, rule)
        if leaf.dtype != jnp.int8 or not leaf.ndim:
            raise ValueError(
                f"an IntegerStrategy evolves int8 arrays, but {path} is "
                f"{leaf.dtype}{list(leaf.shape)}: store it as int8, or leave it as it "
                f"is with rules={{{path!r}: eggroll.frozen}}"
            )
        dims = tuple(range(leaf.ndim))
        if leaf.ndim == 1 or isinstance(rule, FullRank):
            # An element's noise is a product of two values, like that of a matrix; the
            # product of two signs is a sign, for which one will do.
            cols = () if self.noise == "rademacher" else dims
            return Layout(*named, FullRank(rule.sigma_scale), (), dims, cols)
        return Layout(*named, rule, dims[:-2], dims[-2:-1], dims[-1:])

    def _scale(self, layout: Layout, generation: Generation) -> Shift:
        """2^(4 - sigma_shift) units of the weight, over what the factors are worth."""
        _, unit_bits = NOISES[self.noise]
        scale_bits = round(math.log2(layout.sigma_scale))
        bits = unit_bits + self.sigma_shift - FIXED_POINT - scale_bits
        rank_bits, gain = inverse_root(layout.rank)
        floor = self.rounding == "floor"
        return Shift(jnp.int8(1), bits + rank_bits, gain, floor=floor)


def inverse_root(rank: int) -> tuple[int, int]:
    """Returns (bits, gain) with gain / 2^bits = 1/√rank: exact for powers of 4.

    >>> inverse_root(1), inverse_root(16), inverse_root(2)
    ((0, 1), (2, 1), (5, 23))
    """
    half = (rank.bit_length() - 1) // 2
    if 4**half == rank:
        return half, 1
    return half + 1 + GAIN_BITS, round(2 ** (half + 1 + GAIN_BITS) / math.sqrt(rank))
