"""Evolution strategies as an optimiser: a population in, a gradient estimate out.

    J(M) = E[f(M + σE)],      ∇J ≈ 1/(Nσ) Σ_i f_i E_i

`EvolutionStrategy` is a frozen description and its methods are pure functions. What
noise a generation used is told by a small `Generation`, from which it is drawn again.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num, PyTree

from eggroll.evolution import (
    estimate,
    factors,
    kernels,
    notices,
    order,
    shaping as shapings,
)
from eggroll.evolution.distributions import Noise, unit_scale
from eggroll.evolution.generation import Generation
from eggroll.evolution.gradient_estimator import GradientEstimator
from eggroll.evolution.pytrees import plain_number
from eggroll.evolution.tracing import Trace
from eggroll.evolution.validation import (
    check_same,
    check_settings,
    check_sigma,
    checked_dtype,
    is_traced,
    one_per_member,
)
from eggroll.perturbation.demotion import refuse_lost, warn_lost
from eggroll.perturbation.interpreter import Observer
from eggroll.perturbation.layout import Layout, make_plan
from eggroll.perturbation.rules import Rules, of_rank
from eggroll.perturbation.scale import Multiple
from eggroll.perturbation.transform import ignore, refuse


@dataclasses.dataclass(frozen=True)
class EvolutionStrategy(GradientEstimator):
    """Low-rank (EGGROLL) and full-rank (OpenAI-ES) evolution strategies.

    It can be hashed and pickled; it is a static argument of `jax.jit`, or a pytree with
    sigma as its only leaf. `dataclasses.replace(es, sigma=...)` makes another of it,
    with a traced value, too.

    Attributes:
        population: members N that a generation evaluates; even with antithetic pairs.
        sigma: standard deviation of each weight's perturbation, for any rank; or a
            function from step to it, such as an optax schedule: then say at which
            `step` you are, else it stays where it starts. A step at which that is not a
            positive, finite number has a gradient of zero, and a warning.
        rank: of each matrix's perturbation A Bᵀ/√rank; None for full rank.
        noise: distribution of the factors' entries: "rademacher" (±1) or "gaussian".
        antithetic: members 2p and 2p+1 use the same noise with opposite signs.
        shaping: from raw fitness to weights; see `eggroll.shaping`.
        strict: refuse a model that needs a matrix written out for every member, or one
            to have full-rank noise that no rule asked for.
        gradient_dtype: of the gradients; None: of each leaf its own. Sums are float32
            at least.
        noise_reuse: for how many steps in a row the noise stays the same.
        rules: by path pattern, how a leaf is perturbed: `low_rank`, `full_rank`,
            `frozen`. The first match decides.
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

    References:
        "Evolution Strategies at the Hyperscale", arXiv 2511.16652 (low rank);
        Salimans et al., arXiv 1703.03864 (full rank).
    """

    sigma: float | Callable[[Any], Any]
    rank: int | None = 1
    noise: Noise = "rademacher"
    antithetic: bool = True
    shaping: shapings.Shaping = shapings.zscore
    strict: bool = False
    gradient_dtype: Any = None

    def __post_init__(self) -> None:
        check_settings(self)
        object.__setattr__(self, "sigma", plain_number(self.sigma))
        if self.gradient_dtype is not None:
            dtype = checked_dtype(self.gradient_dtype)
            object.__setattr__(self, "gradient_dtype", dtype)
        super().__post_init__()

    def gradient(
        self, generation: Generation, fitness: Num[Any, " population"]
    ) -> PyTree:
        """Estimates the gradient of minus the mean fitness from the members' fitness.

        -1/(Nσ) Σ_i w_i E_i with w the shaped fitness (paper, equation 6, with its 1/σ).

        Args:
            generation: from `ask`, of this strategy or one like it.
            fitness: one number a member, however it was found; what is no array of JAX
                is shaped in float64. Members whose fitness is not finite (and the
                partners of such) count for nothing; if none is left, the gradient is
                zero, and a `RuntimeWarning` says so.

        Returns:
            A pytree like the parameters, of their types (or of `gradient_dtype`): None
            for leaves that are no floating-point numbers (float32 for those of whole
            numbers that a rule calls `quantised`), zeros for those that are but do not
            evolve (`eggroll.trainable` keeps optimisers from moving them).

        Raises:
            ValueError: if `fitness` has not one number a member, or if the generation
                was asked for by a strategy with other noise.
        """
        fitness = one_per_member(fitness, self.population, "fitness")
        notices.warn_if(
            ~self._counted(fitness).any(),
            "nothing can be learnt from a generation without a finite fitness (with "
            "pairs: without a pair that has two): its gradient is zero. Look for what "
            "makes members fail, or lower sigma",
        )
        return self.combine(generation, self.weigh(fitness))

    def weigh(self, fitness: Num[Any, " population"]) -> Num[Array, " population"]:
        """Returns the weights that `combine` takes: the shaped fitness.

        Raises:
            ValueError: if `fitness` has not one number a member.
        """
        fitness = one_per_member(fitness, self.population, "fitness")
        check_same(fitness, "fitness")
        shape = lambda fitness: shapings.apply(
            self.shaping, fitness, antithetic=self.antithetic
        )
        if self.fixed_order is not None and isinstance(fitness, jax.Array):
            shape = order.everywhere(shape, self.mesh)
        return self._on_device(shape(fitness))

    def combine(
        self, generation: Generation, weights: Num[Any, " population"]
    ) -> PyTree:
        """Returns -1/(Nσ) Σ_i w_i E_i for weights that are shaped already.

        Finite weights make finite gradients: an entry beyond its type's range is cut
        off there.

        Raises:
            ValueError: if `weights` has not one number a member, or if the generation
                was asked for by a strategy with other noise.
        """
        generation.check(self._noise_settings)
        weights = one_per_member(weights, self.population, "weight")
        check_same(weights, "weights")
        weights = self._on_device(weights)
        weights, unit = estimate.pair_weights(weights, antithetic=self.antithetic)
        sigma = generation.sigma
        assert sigma is not None  # as it would be for integers
        factor, is_sound = estimate.step_factor(sigma, self.population)
        if callable(self.sigma) or is_traced(self.sigma):  # else it has been checked
            notices.warn_if(
                ~is_sound,
                "sigma is zero, negative or not finite at this step: its gradient is "
                "zero",
            )
        weights, factor, unit = kernels.kept((weights, factor, unit))
        sums = self._sum_over_pairs(generation, weights, estimate.contract)
        # The unit comes last: before, a product of large ones might overflow.
        return generation.arranged(
            estimate.scaled(
                total, layout, self.noise, factor, unit, self.gradient_dtype
            )
            for total, layout in zip(sums, generation.layouts, strict=True)
        )

    def factors(self, generation: Generation, index: Int[Array, ""] | int) -> PyTree:
        """Returns what one member adds to the parameters, as thin factors.

        An adapter, such as a server of models takes: `member` without the parameters,
        and without a matrix that is written out.

        Args:
            generation: from `ask` or `generation`, of this strategy or one like it.
            index: of the member, from 0; 2p and 2p + 1 are a pair.

        Returns:
            A pytree like the parameters, with `Factors` for leaves that evolve and None
            for others.

        Raises:
            ValueError: if there is no such member, or if the generation was asked for
                by a strategy with other noise.
        """
        drawn = self._draw_one(generation, index)
        scale = lambda layout: self._scale(layout, generation)
        return generation.arranged(
            None if one is None else factors.of(layout, one[0], scale(layout))
            for layout, one in zip(generation.layouts, drawn, strict=True)
        )

    def _counted(self, fitness: Num[Any, " population"]) -> Bool[Any, " population"]:
        return shapings.counted(self.shaping, fitness, antithetic=self.antithetic)

    def _on_device(self, weights: Num[Any, " population"]) -> Num[Array, " population"]:
        if isinstance(weights, jax.Array):
            return weights
        return estimate.narrowed(weights, antithetic=self.antithetic)

    @property
    def _pairs(self) -> bool:
        return self.antithetic

    @property
    def _distribution(self) -> str:
        return self.noise

    @property
    def _noise_settings(self) -> tuple[tuple[str, Any], ...]:
        if callable(self.sigma):
            sigma: Any = "a schedule"  # what it gave is in the generation
        else:
            traced = is_traced(self.sigma)
            sigma = "traced" if traced else float(np.float32(self.sigma))
        own = ("noise", self.noise), ("antithetic", self.antithetic), ("sigma", sigma)
        return (*super()._noise_settings, *own)

    @property
    def _observer(self) -> Observer:
        return refuse if self.strict else ignore

    def _plan(
        self, traced: Trace, params: PyTree, *, is_loss: bool = False
    ) -> tuple[Layout | None, ...]:
        rules = Rules(self.rules)
        default = of_rank(self.rank)
        plan = make_plan(traced.jaxpr, params, default, rules, obey_stops=is_loss)
        (refuse_lost if self.strict else warn_lost)(plan)
        return plan

    def _sigma(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        sigma = self.sigma
        if callable(sigma):
            sigma = sigma(step)
            check_sigma(sigma, step)
        return jnp.asarray(sigma, jnp.float32)

    def _scale(self, layout: Layout, generation: Generation) -> Multiple:
        assert generation.sigma is not None
        unit = unit_scale(layout, self.noise)
        return Multiple(generation.sigma * (layout.sigma_scale * unit))
