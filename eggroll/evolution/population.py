"""Populations: what strategies on floats and on integers share.

Noise is drawn for a whole chunk of members at population level, and only the model runs
under `vmap`: drawn inside the mapped function, the same computation takes twice as long
on a CPU.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray, PyTree

from eggroll.evolution import (
    calls,
    compilers,
    evaluation,
    memory,
    noise as noises,
    partition,
    pickling,
    pytrees,
    sharding,
)
from eggroll.evolution.calls import Call
from eggroll.evolution.drawing import Drawing
from eggroll.evolution.generation import Generation
from eggroll.evolution.members import Members, perturb, to_map
from eggroll.evolution.reduction import Way
from eggroll.evolution.tracing import Trace, trace
from eggroll.evolution.validation import check_population, checked_step
from eggroll.perturbation import jaxprs
from eggroll.perturbation.interpreter import Observer
from eggroll.perturbation.layout import Layout
from eggroll.perturbation.rules import Rule, Rules
from eggroll.perturbation.transform import evaluate, ignore


@dataclasses.dataclass(frozen=True)
class Population(Drawing):
    """A population of perturbed models, evaluated in chunks and over devices.

    Strategies say how leaves are perturbed (`_plan`), with which noise (`Drawing`), and
    what is learnt from a generation.
    """

    population: int
    _: dataclasses.KW_ONLY
    noise_reuse: int = 1
    rules: Mapping[str, Rule] = dataclasses.field(default_factory=dict)
    chunk_size: int | None = None
    memory_bytes: int | None = None
    mesh: Mesh | None = None
    partition: Mapping[str, PartitionSpec] = dataclasses.field(default_factory=dict)
    update: Way = "reduce"
    fixed_order: int | None = None

    def __init_subclass__(cls, **how: Any) -> None:
        super().__init_subclass__(**how)
        pytrees.register(cls)

    def __reduce__(self) -> tuple:
        return pickling.reduced(self)

    def __post_init__(self) -> None:
        check_population(self)
        for name in ("rules", "partition"):  # so that it has a hash
            object.__setattr__(self, name, Rules(getattr(self, name)))

    def ask(
        self, apply: Callable, *, in_axes: Any = None
    ) -> Callable[..., tuple[PyTree, Generation]]:
        """Evaluates a function on every member; scoring is up to the caller.

        Args:
            apply: `apply(params, *args, **kwargs)` returns a pytree of arrays. If it
                has a parameter named `key` that is left open, it is given one: the same
                for the two members of a pair, new each step. One named `step` is given
                the step.
            in_axes: for each argument after `params`, None if all members share it, or
                0 if it has a row a member (or a row for each group of consecutive
                members); a tuple, or one for all, and pytree prefixes as in `jax.vmap`.

        Returns:
            `run(params, key, *args, step=0, **kwargs) -> (outputs, generation)`: the
            outputs of all members, with a leading member dimension, and what is needed
            to draw the same noise again. Noise is a function of `key` and `step`: with
            both the same, the same members are asked again. What a member changes in
            the modules it is given (Flax NNX) is dropped.

        Raises:
            TypeError: when run, if there is no key, or `apply` cannot be called so.
            ValueError: when run, if `in_axes` does not fit, or nothing can be evolved.
        """

        def run(
            params: PyTree, key: PRNGKeyArray, /, *args: Any, step: Any = None, **kwargs
        ) -> tuple[PyTree, Generation]:
            how = self._described(apply, in_axes, params, key, args, kwargs, step)
            traced, generation = how
            outputs = self._evaluate(traced, generation)
            return traced.results.arranged(outputs), generation

        return run

    def generation(
        self, apply: Callable, *, in_axes: Any = None
    ) -> Callable[..., Generation]:
        """Like `ask`, but evaluates nothing: for members that others evaluate.

        Args:
            apply: tells how the parameters are used, as in `ask`.
            in_axes: as in `ask`.

        Returns:
            `run(params, key, *args, step=0, **kwargs) -> generation`, the one that
            `ask` would return; of parameters and arguments the shapes will do.
        """

        def run(
            params: PyTree, key: PRNGKeyArray, /, *args: Any, step: Any = None, **kwargs
        ) -> Generation:
            return self._described(apply, in_axes, params, key, args, kwargs, step)[1]

        return run

    # --- What a strategy says

    @abc.abstractmethod
    def _plan(
        self, traced: Trace, params: PyTree, *, is_loss: bool = False
    ) -> tuple[Layout | None, ...]:
        """How each leaf is perturbed; None for what is no array.

        A loss obeys `jax.lax.stop_gradient`.
        """

    def _sigma(self, step: Int[Array, ""] | int) -> Float[Array, ""] | None:
        """Sigma at a step, where it may change."""
        return None

    @property
    def _observer(self) -> Observer:
        """Is told how the function uses the perturbed arrays."""
        return ignore

    # --- How it is evaluated

    def _described(
        self,
        apply: Callable,
        in_axes: Any,
        params: PyTree,
        key: PRNGKeyArray,
        args: tuple,
        kwargs: dict[str, Any],
        step: Any,
    ) -> tuple[Trace, Generation]:
        calls.check_key(key)
        call = calls.opened(apply, (params, *args), kwargs, step=step)
        call = call._replace(function=calls.without_state(call.function))
        source = self._source(key, step)
        traced = self._trace(call, in_axes, source)
        return traced, self._generation(traced, call.params, source)

    def _trace(self, call: Call, in_axes: Any, source: tuple) -> Trace:
        compilers.warn_if_known_bad()
        fn, params, args, kwargs, has_key, _ = call
        n = self.population
        return trace(fn, params, args, in_axes, n, kwargs, has_key, source)

    def _source(self, key: PRNGKeyArray, step: Any) -> tuple:
        """What the noise of a generation is made from: key, step and sigma."""
        step = checked_step(step)
        return noises.base_key(key), jnp.asarray(step), self._sigma(step)

    def _generation(
        self, traced: Trace, params: PyTree, source: tuple, **how: Any
    ) -> Generation:
        tree, settings = jax.tree.structure(params), self._noise_settings
        key, step, sigma = source
        plan = self._plan(traced, params, **how)
        plan = partition.placed(plan, params, self.mesh, self.partition)
        return Generation(key, step, sigma, plan, tree, settings)

    def _unperturbed(self, traced: Trace, generation: Generation) -> list[Array]:
        """Evaluates the parameters themselves, with a key that no member has."""
        beyond = jnp.asarray(self.population)
        key = noises.member_key(generation.key, generation.step, beyond)
        keys = [key] if traced.has_key else []
        return jaxprs.run(traced.jaxpr, [*traced.params, *traced.data, *keys])

    def _evaluate(self, traced: Trace, generation: Generation) -> list[Array]:
        """Evaluates every member: spread over devices, chunk after chunk."""
        chunk = self._evaluation_chunk(traced, generation.layouts)
        return evaluation.over_members(
            self._evaluate_some,
            traced,
            generation,
            population=self.population,
            chunk=chunk,
            multiple=2 if self._pairs else 1,
            mesh=self.mesh,
            units=self.fixed_order,
        )

    def _evaluate_some(
        self,
        traced: Trace,
        generation: Generation,
        index: Int[Array, " members"],
        data: Sequence[Array],
    ) -> list[Array]:
        """Evaluates some members; mapped data has a row for each of them."""
        layouts, keys = generation.layouts, []
        if traced.has_key:
            pairs = Members.of(index, antithetic=self._pairs).pair
            of_pair = lambda p: noises.member_key(generation.key, generation.step, p)
            keys = [jax.vmap(of_pair)(pairs)]

        def one(drawn: Any, data: list[Array], keys: list[Array]) -> list[Array]:
            params = perturb(traced.params, layouts, drawn)
            args = [*params, *data, *keys]
            return evaluate(traced.jaxpr, args, self._observer, len(params))

        # Outside the mapped function: the noise of a chunk is drawn at once, and what
        # all members share (scales) is not mapped.
        drawn = sharding.replicated(self._draw(generation, index), self.mesh)
        drawn, by_member = to_map(layouts, drawn)
        axes = [0 if mapped else None for mapped in traced.is_mapped]
        run = jax.vmap(one, in_axes=(by_member, axes, 0))
        return run(drawn, list(data), keys)

    def _sum_over_pairs(
        self,
        generation: Generation,
        weights: Num[Array, " pairs"],
        contract: Callable[[Layout, Sequence[Array], Num[Array, " pairs"]], Array],
    ) -> list[Array | None]:
        """Sums w_p times the product of the factors of pair p, for each leaf.

        Args:
            generation: whose noise is drawn again.
            weights: of the pairs; without pairs, of the members.
            contract: does it for one leaf and some pairs.

        Returns:
            The sums, one for each of the generation's layouts; None for a frozen leaf.
        """
        return evaluation.sum_over_pairs(
            contract,
            generation.layouts,
            self._noise_key(generation),
            weights,
            distribution=self._distribution,
            chunk=self._update_chunk(generation.layouts),
            mesh=self.mesh,
            way=self.update,
            units=self.fixed_order,
        )

    # --- How much at a time

    def _evaluation_chunk(self, traced: Trace, layouts: Sequence[Layout]) -> int:
        """How many members a device evaluates at once."""
        return self._chunk(memory.member_bytes(traced.jaxpr, layouts))

    def _update_chunk(self, layouts: Sequence[Layout]) -> int:
        """How many pairs (without pairs: members) a device redraws at once."""
        # A chunk size that is given counts members; a plan counts what is drawn.
        rows = self._chunk(memory.noise_bytes(layouts))
        return max(1, rows // 2) if self._pairs and self.chunk_size else rows

    def _chunk(self, bytes_each: int) -> int:
        budget = self.memory_bytes or memory.budget()
        return self.chunk_size or memory.rows_within(budget, bytes_each)
