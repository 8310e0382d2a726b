"""What stands where `jax.value_and_grad` and `jax.grad` stood."""

import abc
import functools
from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Bool, Num, PRNGKeyArray, PyTree

from eggroll.evolution import calls, notices, objective as objectives
from eggroll.evolution.calls import Call
from eggroll.evolution.generation import Generation
from eggroll.evolution.objective import Objective, Value
from eggroll.evolution.population import Population
from eggroll.evolution.tracing import Trace
from eggroll.evolution.validation import one_per_member


class GradientEstimator(Population):
    """A population from whose fitness the gradient of a loss is estimated."""

    @abc.abstractmethod
    def gradient(
        self, generation: Generation, fitness: Num[Any, " population"]
    ) -> PyTree:
        """Estimates the gradient of minus the mean fitness."""

    @abc.abstractmethod
    def _counted(self, fitness: Num[Any, " population"]) -> Bool[Any, " population"]:
        """Which members count: there is something to be learnt from them."""

    def value_and_grad(
        self,
        loss: Callable | None = None,
        *,
        fitness: Callable | None = None,
        argnums: Any = 0,
        has_aux: bool = False,
        in_axes: Any = None,
        value: Value | None = None,
        wrt: Any = None,
    ) -> Callable[..., Any]:
        """Stands where `jax.value_and_grad` stood.

        Without a function it is a decorator: `@es.value_and_grad(has_aux=True)`.

        Args:
            loss: `loss(params, *args, **kwargs)` returns one number, lower is better.
                As jax.grad does, it obeys `stop_gradient`: what it depends on through
                that alone is not evolved. It is given a `key` and a `step` as in `ask`.
            fitness: instead of `loss`: higher is better, and all is evolved.
            argnums: which arguments of the function evolve; several as a tuple.
            has_aux: the function returns `(number, aux)`.
            in_axes: as in `ask`, for the arguments that do not evolve.
            value: whose value and aux to return. "unperturbed": those of one evaluation
                at the parameters themselves, as from JAX; the default, unless members
                have data of their own (`in_axes`). "mean": over the members that did
                not fail; the default then. (NaN if nothing can be learnt; of aux what
                is no float is the first member's; that of all is held for a while.)
                "first": of the first member. "members": of all, with a leading
                dimension.
            wrt: of a module of Flax NNX, the variables that evolve; None: `nnx.Param`.

        Returns:
            `run(params, key, *args, step=0, **kwargs) -> (value, grads)`, or with
            `has_aux` `((value, aux), grads)`. The key always stands second. `grads`
            point uphill in the loss, as optax expects, and are those of `gradient`.
            Noise is a function of `key` and `step`: a loop changes one of them at each
            turn, as with both the same it would evaluate the same members again. The
            state of NNX modules is written back, as the value is found.

        Raises:
            TypeError: if there is no function; when run, if there is no key, or the
                function cannot be called so.
            ValueError: if both `loss` and `fitness` are given; when run, if the result
                is no number.
        """
        how: dict[str, Any] = dict(
            argnums=argnums, has_aux=has_aux, in_axes=in_axes, value=value, wrt=wrt
        )
        if loss is None and fitness is None:
            return functools.partial(self.value_and_grad, **how)
        objective = _objective(loss, fitness, how)

        def run(first: PyTree, key: PRNGKeyArray, /, *rest: Any, **kwargs: Any) -> Any:
            args = (first, *rest)
            value, aux, grads = self._learn(objective, key, args, kwargs)
            return ((value, aux) if has_aux else value), grads

        return objective.named(run)

    def grad(
        self,
        loss: Callable | None = None,
        *,
        fitness: Callable | None = None,
        argnums: Any = 0,
        has_aux: bool = False,
        in_axes: Any = None,
        value: Value | None = None,
        wrt: Any = None,
    ) -> Callable[..., Any]:
        """Stands where `jax.grad` stood: `value_and_grad` without the value.

        Args:
            loss: as in `value_and_grad`.
            fitness: as in `value_and_grad`.
            argnums: as in `value_and_grad`.
            has_aux: as in `value_and_grad`.
            in_axes: as in `value_and_grad`.
            value: whose aux to return, as in `value_and_grad`.
            wrt: as in `value_and_grad`.

        Returns:
            `run(params, key, *args, step=0, **kwargs) -> grads`, or with `has_aux`
            `(grads, aux)`.

        Raises:
            TypeError: as `value_and_grad`.
            ValueError: as `value_and_grad`.
        """
        how: dict[str, Any] = dict(
            argnums=argnums, has_aux=has_aux, in_axes=in_axes, value=value, wrt=wrt
        )
        if loss is None and fitness is None:
            return functools.partial(self.grad, **how)
        objective = _objective(loss, fitness, how)

        def run(first: PyTree, key: PRNGKeyArray, /, *rest: Any, **kwargs: Any) -> Any:
            args = (first, *rest)
            _, aux, grads = self._learn(objective, key, args, kwargs)
            return (grads, aux) if objective.has_aux else grads

        return objective.named(run)

    def scores(
        self,
        objective: Objective,
        key: PRNGKeyArray,
        args: tuple,
        kwargs: dict[str, Any],
    ) -> tuple[Num[Array, " population"], Generation]:
        """Evaluates an objective on every member, as `value_and_grad` does.

        For loops of the library that want more than a gradient.

        Args:
            objective: a loss or a fitness.
            key: of the noise.
            args: of the objective's function, by position.
            kwargs: those by name, and `step`.

        Returns:
            The fitness of the members (of a loss: minus that), and their generation.
        """
        *_, generation, members = self._asked(objective, key, args, kwargs)
        return objective.to_maximise(members[0]), generation

    def _learn(
        self,
        objective: Objective,
        key: PRNGKeyArray,
        args: tuple,
        kwargs: dict[str, Any],
    ) -> tuple[Any, PyTree, PyTree]:
        """Returns value, aux and gradient of an objective, called with these."""
        call, traced, generation, members = self._asked(objective, key, args, kwargs)
        kind = objective.value_of(traced)
        with notices.failures_allowed():
            grads = self.gradient(generation, objective.to_maximise(members[0]))
            if kind == "first":
                results = objectives.first(members)
            elif kind != "unperturbed":
                results = objectives.mean(members, self._counted(members[0]))
        if kind == "unperturbed":
            results = self._unperturbed(traced, generation)
        value, (aux, state) = traced.results.arranged(results)  # pyrefly: ignore[unbound-name]
        call.write_back(state)
        if kind == "members":
            value, (aux, _) = traced.results.arranged(members)
        return value, aux, grads

    def _asked(
        self,
        objective: Objective,
        key: PRNGKeyArray,
        args: tuple,
        kwargs: dict[str, Any],
    ) -> tuple[Call, Trace, Generation, list[Array]]:
        """Evaluates an objective on every member, with what of it a caller sees.

        Returns:
            How it was called and traced; the generation; the results of the members, of
            which the first is the number, and the only one if no more is wanted.
        """
        step = kwargs.pop("step", None)
        calls.check_key(key)
        call = calls.opened(
            objective.function,
            args,
            kwargs,
            argnums=objective.argnums,
            step=step,
            wrt=objective.wrt,
        )
        source = self._source(key, step)
        traced = self._trace(objective.checked(call), objective.in_axes, source)
        number = traced.first()
        is_loss = objective.is_loss
        generation = self._generation(number, call.params, source, is_loss=is_loss)
        one = number if objective.value_of(traced) == "unperturbed" else traced
        with notices.failures_allowed():
            members = self._evaluate(one, generation)
            raw = one_per_member(members[0], self.population, "fitness")
        return call, traced, generation, [raw, *members[1:]]


def _objective(
    loss: Callable | None, fitness: Callable | None, how: dict[str, Any]
) -> Objective:
    if loss is not None and fitness is not None:
        raise ValueError("give either a loss or fitness= (higher is better), not both")
    function = fitness if loss is None else loss
    return Objective(function, is_loss=fitness is None, **how)  # type: ignore
