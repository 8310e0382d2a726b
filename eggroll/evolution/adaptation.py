"""Sigma that adapts: pure functions from a state and the raw fitness to the next sigma.

    rule = one_fifth_success(0.1)                    # or spread_target(0.1)
    state = rule.init()                              # a few float32 scalars
    now = dataclasses.replace(es, sigma=state.sigma) # the strategy of this generation
    state, sigma = rule.update(state, fitness)       # what the next generation uses

A rule reads from each generation a signal u, from -1 (sigma is too large) to 1 (too
small), and moves the logarithm of sigma, which began at σ₀:

    log σ  <-  log σ + rate u - leak log(σ/σ₀),      lowest <= σ <= highest

One generation so changes sigma by a factor of at most e^(rate + leak |log(σ/σ₀)|). A
signal of mean ū takes sigma to σ₀ e^(rate ū/leak), or to a bound, and one of mean 0 and
deviation s lets log σ wander by rate s/√(2 leak): without the leak, noise would add up
to a walk without end. Its price is that sigma stops a little on the near side, seen
from σ₀, of where u vanishes.

Fitness is maximised. All is free of scale: f and a f + b (a > 0) give the same sigmas.
Members that failed are left out; a generation of which nothing can be used changes
nothing, and where all members are equal, u is 0.

A z-scored or ranked gradient has a size of about 1/σ: follow it with an optimiser to
which sizes are nothing (adam), or multiply it by sigma; else a smaller sigma makes a
longer step.
"""

import abc
import dataclasses
import functools
import math
import numbers
import typing
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from eggroll.evolution import sigma_signals as signals


Kept = tuple[Float[Array, ""], Float[Array, ""]]


class Adapted(typing.NamedTuple):
    """What a rule keeps from one generation to the next, float32 scalars all.

    Attributes:
        sigma: for the next generation.
        reference: fitness that members are compared with where no centre is given;
            infinite as long as there is none.
        remainder: what float32 left of it: large offsets hide no difference.
    """

    sigma: Float[Array, ""]
    reference: Float[Array, ""]
    remainder: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class Adaptation(abc.ABC):
    """A rule; see `one_fifth_success` and `spread_target`, which make them.

    Attributes:
        sigma: what it starts from and is pulled back to, σ₀.
        target: what it steers to; each rule has its own.
        rate: by how much log σ changes in a generation, at most, but for the leak.
        leak: share of log(σ/σ₀) that is lost in a generation.
        lowest: bound of sigma; None for σ₀/10.
        highest: bound of sigma; None for 10 σ₀.
    """

    sigma: float
    target: float
    rate: float = 0.1
    leak: float = 0.01
    lowest: float | None = None
    highest: float | None = None

    needs_pairs: ClassVar[bool] = False
    uses_centre: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("sigma", "target", *_given(self)):
            if not _is_number(value := getattr(self, name)) or not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value!r}")
        if not _is_number(self.rate) or not 0 < self.rate <= 1:
            raise ValueError(f"rate must be above 0 and at most 1, got {self.rate!r}")
        if not _is_number(self.leak) or not 0 <= self.leak <= 1:
            raise ValueError(f"leak must be from 0 to 1, got {self.leak!r}")
        lowest, highest = self.bounds
        if not lowest <= self.sigma <= highest:
            raise ValueError(
                f"sigma must be within its bounds to begin with: expected lowest <= "
                f"sigma <= highest, got {lowest}, {self.sigma}, {highest}"
            )

    @property
    def bounds(self) -> tuple[float, float]:
        """What sigma stays within: the lowest and the highest."""
        lowest = self.sigma / 10 if self.lowest is None else self.lowest
        highest = self.sigma * 10 if self.highest is None else self.highest
        return float(lowest), float(highest)

    def init(self) -> Adapted:
        """Returns the state before the first generation."""
        return Adapted(jnp.float32(self.sigma), jnp.float32(jnp.inf), jnp.float32(0))

    def update(
        self, state: Adapted, fitness: Num[Any, " members"], *, centre: Any = None
    ) -> tuple[Adapted, Float[Array, ""]]:
        """Adapts sigma to a generation.

        Args:
            state: from `init` or the update before.
            fitness: of the members, raw, higher is better. What is no array of JAX is
                compared in float64.
            centre: fitness of the unperturbed parameters, in the same type; a rule that
                has no use for it passes it over.

        Returns:
            The state, and its sigma.

        Raises:
            ValueError: if `fitness` is not one number a member, or there are no pairs
                where the rule needs them.
        """
        if not isinstance(fitness, jax.Array):
            fitness = np.asarray(fitness, np.float64)
            centre = None if centre is None else np.asarray(centre, np.float64)
            with jax.ensure_compile_time_eval(), jax.enable_x64(True):
                whole = jax.tree.map(jnp.asarray, (fitness, centre))
                return self.update(state, whole[0], centre=whole[1])
        if fitness.ndim != 1 or (self.needs_pairs and fitness.shape[0] % 2):
            wanted = "(members,), in pairs" if self.needs_pairs else "(members,)"
            raise ValueError(f"expected fitness of shape {wanted}, got {fitness.shape}")
        new = self._adapted(state, fitness, centre)
        return new, new.sigma

    @functools.partial(jax.jit, static_argnums=0)  # whole, for fitness of the host
    def _adapted(self, state: Adapted, fitness: Array, centre: Any) -> Adapted:
        fitness = fitness.astype(jnp.promote_types(fitness.dtype, jnp.float32))
        signal, is_usable, kept = self._read(state, fitness, centre)
        pull = self.leak * jnp.log(state.sigma / self.sigma)
        step = self.rate * signal.astype(jnp.float32) - pull
        moved = jnp.clip(state.sigma * jnp.exp(step), *map(jnp.float32, self.bounds))
        new = Adapted(moved, *kept)
        return jax.tree.map(lambda x, y: jnp.where(is_usable, x, y), new, state)

    @abc.abstractmethod
    def _read(
        self, state: Adapted, fitness: Float[Array, " members"], centre: Any
    ) -> tuple[Array, Array, Kept]:
        """Returns u, whether the generation can be used, and the next reference."""


def one_fifth_success(
    sigma: float,
    *,
    target: float = 0.2,
    rate: float = 0.1,
    leak: float = 0.01,
    lowest: float | None = None,
    highest: float | None = None,
) -> Adaptation:
    """Steers to a share of members that are better than the centre: one fifth.

    A success is a member whose fitness is higher than that of the unperturbed
    parameters, `centre`. u is the mean of 1/target - 1 for each success, -1 for each
    failure and 0 for a tie, cut off at 1. What it does:

    - on a slope every second member succeeds: sigma grows (u = 1), to where it bends;
    - on -½ xᵀHx a share Φ(-σ tr H/(2 |Hx|)) does (for many parameters), so that sigma
      settles at 1.68 |Hx|/tr H: close, as (1+1) strategies want it, for populations
      much larger than the number of parameters;
    - on a plateau nothing is better or worse: the leak alone is at work;
    - on noise, in the centre as in members, sigma grows (u = 0.6 on average), as if it
      looked for differences; not the leak stops it, but `highest`.

    Without `centre` a success is a member better than what 0.8 of the target share (16
    of 100) of the generation before had surpassed. Sigma then follows the progress: it
    grows while members get better from one generation to the next, however they do, and
    otherwise falls, on mere noise too, to σ₀ e^(-0.2 rate/leak): 0.14 σ₀ by default.
    Data that change with the generation make it wander. So give a centre, or choose
    `spread_target`.

    Args:
        sigma: where it starts.
        target: share of successes, below 0.5.
        rate: as the others, see `Adaptation`.
        leak: share of log(σ/σ₀) that is lost; 0 for none.
        lowest: None for σ₀/10.
        highest: None for 10 σ₀.

    Raises:
        ValueError: for a number out of its range.

    References:
        Rechenberg, Evolutionsstrategie, 1973 and Schumer & Steiglitz, "Adaptive step
        size random search", 1968 (the rule); Ait Elhara, Auger & Hansen, "A median
        success rule for non-elitist evolution strategies", GECCO 2013 and Loshchilov,
        "A computationally efficient limited memory CMA-ES", GECCO 2014 (comparison with
        the generation before, for a progress above none).
    """
    return _OneFifthSuccess(sigma, target, rate, leak, lowest, highest)


def spread_target(
    sigma: float,
    *,
    target: float = 1.0,
    rate: float = 0.1,
    leak: float = 0.01,
    lowest: float | None = None,
    highest: float | None = None,
) -> Adaptation:
    """Steers to a spread of fitness between pairs that is `target` of that within them.

    Half the difference d of an antithetic pair is what fitness owes to the slope, its
    mean m what it owes to curvature; noise is in both alike. So

        u = (target² D - M) / (target² D + M),   D = mean of d²,   M = variance of m

    compares members of one generation only: neither progress nor data that change from
    one generation to the next are seen. What it does:

    - on a slope pairs have one mean: sigma grows (u = 1), to where it bends;
    - on -½ xᵀHx sigma settles at √2 target |Hx|/‖H‖ (Frobenius norm, Gaussian noise),
      where most of the z-score's spread is still signal: wider than one fifth of
      successes, as populations want it that average over many members;
    - on a plateau u is 0: the leak alone is at work;
    - on noise that each member has for itself, u is 0 on average for a target of 1,
      else (target² - 1)/(target² + 1), and its deviation √(2/members): log σ wanders
      by rate/√(leak members).

    What both members of a pair have in common by chance, as the `key` of a fitness
    function, or the data of a group, counts as curvature: sigma falls. Curvature along
    single weights is not seen where all perturbations have one size ("rademacher").

    Args:
        sigma: where it starts.
        target: ratio of the two spreads.
        rate: as the others, see `Adaptation`.
        leak: share of log(σ/σ₀) that is lost; 0 for none.
        lowest: None for σ₀/10.
        highest: None for 10 σ₀.

    Raises:
        ValueError: for a number out of its range.
    """
    return _SpreadTarget(sigma, target, rate, leak, lowest, highest)


@dataclasses.dataclass(frozen=True)
class _OneFifthSuccess(Adaptation):
    """See `one_fifth_success`."""

    uses_centre = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target >= 0.5:
            raise ValueError(
                f"target must be below 0.5, as on a slope every second member is a "
                f"success, got {self.target}"
            )

    def _read(
        self, state: Adapted, fitness: Float[Array, " members"], centre: Any
    ) -> tuple[Array, Array, Kept]:
        kept = state.reference, state.remainder
        if centre is not None:
            centre = jnp.asarray(centre, fitness.dtype)
            signal, is_usable = signals.success(fitness, centre, 0, self.target)
            return signal, is_usable & jnp.isfinite(centre), kept
        signal, is_usable = signals.success(fitness, *kept, self.target)
        return signal, is_usable, signals.surpassed(fitness, 0.8 * self.target)


@dataclasses.dataclass(frozen=True)
class _SpreadTarget(Adaptation):
    """See `spread_target`."""

    needs_pairs = True

    def _read(
        self, state: Adapted, fitness: Float[Array, " members"], centre: Any
    ) -> tuple[Array, Array, Kept]:
        signal, is_usable = signals.slope(fitness, self.target)
        return signal, is_usable, (state.reference, state.remainder)


def _given(rule: Adaptation) -> list[str]:
    return [name for name in ("lowest", "highest") if getattr(rule, name) is not None]


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
