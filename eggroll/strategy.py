"""Evolution strategies as an optimiser: a population in, a gradient estimate out.

    J(M) = E[f(M + σE)],      ∇J ≈ 1/(Nσ) Σ_i f_i E_i

`EvolutionStrategy` is a frozen description and its methods are pure functions. What
noise a generation used is told by a small `Generation`, from which it is drawn again.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray, PyTree

from eggroll import compilers, memory, notices, shaping as shapings, sharding, update
from eggroll.evaluation import (
    Members,
    Trace,
    draw,
    evaluate_members,
    factor_scale,
    perturb,
    trace,
)
from eggroll.generation import Generation
from eggroll.interpreter import is_perturbed
from eggroll.noise import SCHEME, Noise, base_key, generation_key, member_key
from eggroll.plan import Layout, Rule, make_plan, refuse_lost
from eggroll.transform import ignore, refuse
from eggroll.validation import (
    check_fitness,
    check_index,
    check_settings,
    check_sigma,
    one_per_member,
)


@dataclasses.dataclass(frozen=True)
class EvolutionStrategy:
    """Low-rank (EGGROLL) and full-rank (OpenAI-ES) evolution strategies.

    Attributes:
        population: members N that a generation evaluates; even with antithetic pairs.
        sigma: standard deviation of each weight's perturbation, for any rank; or a
            function from step to it, such as an optax schedule. A step at which that
            is not a positive, finite number has a gradient of zero, and a warning.
        rank: of each matrix's perturbation A Bᵀ/√rank; None for full rank.
        noise: distribution of the factors' entries: "rademacher" (±1) or "gaussian".
        antithetic: members 2p and 2p+1 use the same noise with opposite signs.
        reuse: for how many steps in a row the noise stays the same.
        shaping: from raw fitness to weights; see `eggroll.shaping`.
        rules: by path pattern, how a leaf is perturbed: `low_rank`, `full_rank`,
            `frozen`. The first match decides.
        chunk: members evaluated at once on a device; None plans it from `memory`.
        memory: bytes of each device that a population may take; None for a quarter.
        mesh: spreads the population over its axis "population"; None: one device.
        strict: refuse a model that needs a low-rank leaf written out.

    Raises:
        ValueError: for a setting that cannot work; the message says what can.

    References:
        "Evolution Strategies at the Hyperscale", arXiv 2511.16652 (low rank);
        Salimans et al., arXiv 1703.03864 (full rank).
    """

    population: int
    sigma: float | Callable[[Any], Any]
    rank: int | None = 1
    noise: Noise = "rademacher"
    antithetic: bool = True
    reuse: int = 1
    shaping: shapings.Shaping = shapings.zscore
    rules: Mapping[str, Rule] = dataclasses.field(default_factory=dict)
    chunk: int | None = None
    memory: int | None = None
    mesh: Mesh | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        check_settings(self)

    def value_and_grad(
        self,
        fitness: Callable | None = None,
        *,
        loss: Callable | None = None,
        in_axes: Any = None,
        has_aux: bool = False,
    ) -> Callable[..., tuple[Any, PyTree]]:
        """Stands where `jax.value_and_grad` stood.

        Args:
            fitness: `fitness(params, *args)` returns one number, higher is better. If
                it has a parameter named `key`, it is given one: the same for the two
                members of a pair, new each step.
            loss: instead of `fitness`: lower is better.
            in_axes: for each argument after `params`, None if all members share it, or
                0 if it has a row a member (or a row for each group of consecutive
                members); a tuple, or one for all, and pytree prefixes as in `jax.vmap`.
            has_aux: the function returns `(number, aux)`.

        Returns:
            `run(params, key, *args, step=0) -> (value, grads)`, or with `has_aux`
            `((value, aux), grads)`. `value` is the mean over the members that did not
            fail, in the function's own precision; it is NaN if nothing can be learnt
            from the generation, because no member (with pairs: no pair) has a finite
            fitness. Then the gradient is zero, and a `RuntimeWarning` says so. `grads`
            estimate the gradient of *minus* the mean (shaped) fitness, so that optax's
            optimisers descend; `aux` has a leading member dimension. With the same
            `key`, different steps draw different noise.

        Raises:
            ValueError: unless exactly one of `fitness` and `loss` is given; when run,
                if the result is no scalar.
        """
        fn = fitness if loss is None else loss
        if fn is None or (fitness is not None and loss is not None):
            raise ValueError("give either fitness= (higher is better) or loss=")
        check = functools.partial(check_fitness, has_aux=has_aux)
        ask = self._ask(fn, in_axes, check)

        def run(params: PyTree, key: PRNGKeyArray, *args: Any, step: Any = 0) -> Any:
            out, generation = ask(params, key, *args, step=step)
            raw, aux = out if has_aux else (out, None)
            raw = one_per_member(raw, self.population, "fitness")
            grads = self.gradient(generation, raw if loss is None else _negated(raw))
            finite = jnp.isfinite(raw)
            total = jnp.sum(jnp.where(finite, raw / jnp.sum(finite), 0))
            is_usable = shapings.usable(raw, antithetic=self.antithetic).any()
            value = jnp.where(is_usable, total, jnp.nan)
            return ((value, aux) if has_aux else value), grads

        return run

    def ask(
        self, apply: Callable, *, in_axes: Any = None
    ) -> Callable[..., tuple[PyTree, Generation]]:
        """Evaluates a function on every member; scoring is up to the caller.

        Args:
            apply: `apply(params, *args)` returns a pytree of arrays; it is given a
                `key` as in `value_and_grad`.
            in_axes: as in `value_and_grad`.

        Returns:
            `run(params, key, *args, step=0) -> (outputs, generation)`: the outputs of
            all members, with a leading member dimension, and what `gradient` needs to
            know to draw the same noise again.
        """
        return self._ask(apply, in_axes, lambda result: None)

    def _ask(
        self, apply: Callable, in_axes: Any, check: Callable[[Any], None]
    ) -> Callable[..., tuple[PyTree, Generation]]:
        def run(params: PyTree, key: PRNGKeyArray, *args: Any, step: Any = 0) -> Any:
            compilers.warn_if_known_bad()
            traced = trace(apply, params, args, in_axes, self.population)
            check(jax.tree.unflatten(traced.out_tree, traced.jaxpr.out_avals))
            rules = tuple(self.rules.items())
            plan = make_plan(traced.jaxpr, params, Rule(self.rank), rules)
            if self.strict:
                refuse_lost(plan)
            generation = Generation(
                base_key(key),
                jnp.asarray(step),
                self._sigma(step),
                plan,
                jax.tree.structure(params),
                self._noise_settings,
            )
            outputs = self._evaluate(traced, generation)
            return jax.tree.unflatten(traced.out_tree, outputs), generation

        return run

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
            A pytree like the parameters: float32 for shorter floating-point types,
            zeros for frozen leaves, None for what is no array.

        Raises:
            ValueError: if `fitness` has not one number a member, or if the generation
                was asked for by a strategy with other noise.
        """
        fitness = one_per_member(fitness, self.population, "fitness")
        notices.warn_if(
            ~shapings.usable(fitness, antithetic=self.antithetic).any(),
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
        weights = shapings.apply(self.shaping, fitness, antithetic=self.antithetic)
        return self._on_device(weights)

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
        weights = self._on_device(weights)
        weights, unit = update.pair_weights(weights, antithetic=self.antithetic)
        key = generation_key(generation.key, generation.step, self.reuse)
        layouts = generation.layouts
        chunk = self.update_chunk(layouts)

        def local(key: PRNGKeyArray, rows: tuple[Array, Array]) -> list[Any]:
            def part(rows: tuple[Array, Array], counts: Array) -> list[Any]:
                pairs, w = rows
                return update.weighted_sum(layouts, key, self.noise, pairs, w * counts)

            return sharding.sum_chunks(part, rows, chunk)

        rows = (jnp.arange(weights.shape[0]), weights)
        sums = sharding.spread(local, self.mesh, reduce=True)(key, rows)
        sigma = generation.sigma
        is_sound = (sigma > 0) & jnp.isfinite(sigma)
        notices.warn_if(
            ~is_sound,
            "sigma is zero, negative or not finite at this step: its gradient is zero",
        )
        factor = jnp.where(is_sound, 1 / (self.population * sigma), 0)
        grads = iter(
            _scaled(total, layout, self.noise, factor, unit)
            for total, layout in zip(sums, layouts, strict=True)
        )
        leaves = [None if x is None else next(grads) for x in generation.plan]
        return jax.tree.unflatten(generation.tree, leaves)

    def member(
        self, generation: Generation, params: PyTree, index: Int[Array, ""] | int
    ) -> PyTree:
        """Returns the parameters of one member, written out: to inspect or export it.

        Raises:
            ValueError: if there is no such member, if the parameters are not like those
                the generation was asked with, or if it was asked for by a strategy with
                other noise.
        """
        generation.check(self._noise_settings)
        check_index(index, self.population)
        arrays = [jnp.asarray(x) for x in generation.arrays(params)]
        drawn = self._draw(generation, jnp.atleast_1d(jnp.asarray(index)))
        drawn = jax.tree.map(lambda x: x[0] if x.ndim else x, drawn)
        one = perturb(arrays, generation.layouts, drawn)
        written = iter(x.materialise() if is_perturbed(x) else x for x in one)
        leaves = zip(jax.tree.leaves(params), generation.plan, strict=True)
        return jax.tree.unflatten(
            generation.tree,
            [x if layout is None else next(written) for x, layout in leaves],
        )

    def _on_device(self, weights: Num[Any, " population"]) -> Num[Array, " population"]:
        if isinstance(weights, jax.Array):
            return weights
        return update.narrowed(weights, antithetic=self.antithetic)

    def evaluation_chunk(self, traced: Trace, layouts: list[Layout]) -> int:
        """How many members a device evaluates at once."""
        bytes_each = memory.member_bytes(traced.jaxpr, layouts)
        return self._chunk(bytes_each)

    def update_chunk(self, layouts: list[Layout]) -> int:
        """How many pairs (without pairs: members) a device redraws at once."""
        members = self._chunk(memory.noise_bytes(layouts))
        return max(1, members // 2) if self.antithetic and self.chunk else members

    def _chunk(self, bytes_each: int) -> int:
        if self.chunk is not None:
            return self.chunk
        return memory.rows_within(self.memory or memory.budget(), bytes_each)

    def _evaluate(self, traced: Trace, generation: Generation) -> list[Array]:
        layouts, size = generation.layouts, self.population
        chunk = self.evaluation_chunk(traced, layouts)
        is_row = [
            m and x.shape[0] == size
            for x, m in zip(traced.data, traced.is_mapped, strict=True)
        ]

        def local(shared: tuple, rows: tuple) -> list[Array]:
            params, data, generation = shared
            here = traced._replace(params=params)

            def part(rows: tuple) -> list[Array]:
                index, own = rows
                given = iter(own)
                values = [
                    next(given)
                    if row
                    else (x[index // (size // x.shape[0])] if mapped else x)
                    for x, row, mapped in zip(
                        data, is_row, traced.is_mapped, strict=True
                    )
                ]
                return self._evaluate_some(here, generation, index, values)

            return sharding.map_chunks(part, rows, chunk, 2 if self.antithetic else 1)

        own = [x for x, row in zip(traced.data, is_row, strict=True) if row]
        common = [
            None if row else x for x, row in zip(traced.data, is_row, strict=True)
        ]
        spread = sharding.spread(local, self.mesh)
        shared = (traced.params, common, generation)
        return spread(shared, (jnp.arange(size), own))

    def _evaluate_some(
        self,
        traced: Trace,
        generation: Generation,
        index: Int[Array, " members"],
        data: list[Array],
    ) -> list[Array]:
        keys = None
        if traced.has_key:
            pairs = Members.of(index, antithetic=self.antithetic).pair
            of_pair = lambda p: member_key(generation.key, generation.step, p)
            keys = jax.vmap(of_pair)(pairs)
        drawn = self._draw(generation, index)
        observe = refuse if self.strict else ignore
        return evaluate_members(traced, generation.layouts, drawn, data, keys, observe)

    def _draw(self, generation: Generation, index: Int[Array, " members"]) -> list[Any]:
        members = Members.of(index, antithetic=self.antithetic)
        key = generation_key(generation.key, generation.step, self.reuse)
        sigma = generation.sigma
        assert sigma is not None
        return draw(generation.layouts, key, sigma, self.noise, members)

    def _sigma(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        sigma = self.sigma
        if callable(sigma):
            sigma = sigma(step)
            check_sigma(sigma, step)
        return jnp.asarray(sigma, jnp.float32)

    @property
    def _noise_settings(self) -> tuple[tuple[str, Any], ...]:
        """What decides the noise of a generation, beside its plan."""
        names = ("population", "noise", "antithetic", "reuse")
        constant = None if callable(self.sigma) else self.sigma
        settings = [(name, getattr(self, name)) for name in names]
        return (*settings, ("sigma", constant), ("scheme", SCHEME))


def _negated(fitness: Num[Array, " members"]) -> Num[Array, " members"]:
    if jnp.issubdtype(fitness.dtype, jnp.unsignedinteger):
        fitness = fitness.astype(jnp.promote_types(fitness.dtype, jnp.int8))
    return -fitness


def _scaled(
    total: Array | None, layout: Layout, noise: Noise, factor: Array, unit: Array
) -> Array:
    """Turns a sum of unscaled factor products into minus a gradient estimate."""
    dtype = jnp.dtype(layout.dtype)
    if total is None:
        return jnp.zeros(layout.shape, dtype)
    dtype = jnp.promote_types(dtype, jnp.float32)
    scale = factor_scale(layout, noise) / layout.rule.sigma_scale
    grads = (-scale * factor * total).astype(dtype) * unit.astype(dtype)
    limit = jnp.finfo(dtype).max
    return jnp.clip(grads, -limit, limit)
