"""Minimises a loss, for those who have no loop of their own."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Float, PRNGKeyArray, PyTree

from eggroll import adapters
from eggroll.evolution import calls, notices
from eggroll.evolution.master_weights import with_master_weights
from eggroll.evolution.steps import ROWS, Parts, State, Steps
from eggroll.evolution.stopping import Rules, Stop
from eggroll.evolution.strategy import EvolutionStrategy


class History(NamedTuple):
    """What happened in each step.

    Attributes:
        value: the loss at the parameters around which the members were.
        best: the lowest finite loss of the members; infinite if there was none.
        mean: the mean of their finite losses; NaN if there was none.
    """

    value: Float[np.ndarray, " steps"]
    best: Float[np.ndarray, " steps"]
    mean: Float[np.ndarray, " steps"]


class Minimum(NamedTuple):
    """What `minimise` has found, at the end or so far.

    Attributes:
        params: the parameters after the last step.
        value: the loss at them.
        best: the best parameters of all that were evaluated, members included.
        best_value: the loss that was found there; infinite if none was finite.
        steps: how many were made.
        evaluations: of the loss: of each step's members, and of the parameters.
        seconds: of wall-clock time, compilation included.
        reason: why it ended, in words; empty for what is reported on the way.
        history: what happened in each step.
    """

    params: PyTree
    value: float
    best: PyTree
    best_value: float
    steps: int
    evaluations: int
    seconds: float
    reason: Stop
    history: History


def minimise(
    loss: Callable,
    params: PyTree,
    key: PRNGKeyArray,
    *args: Any,
    population: int | None = None,
    sigma: Any = None,
    strategy: EvolutionStrategy | None = None,
    optimizer: optax.GradientTransformation | None = None,
    steps: int = 1000,
    target: float | None = None,
    patience: int | None = None,
    min_improvement: float = 0.0,
    seconds: float | None = None,
    report: Callable[[Minimum], Any] | None = None,
    report_every: int | None = None,
) -> Minimum:
    """Minimises `loss(params, *args)`, starting from parameters.

    The loss is compiled once a call. The same key gives the same result.

    Args:
        loss: returns one number, as for `value_and_grad`; of a fitness, the negative.
            It may draw data of its own from a `key` and a `step`.
        params: any pytree, or a module of Flax NNX (its `nnx.Param` learn) or Equinox;
            it is not changed, and leaves that are not perturbed stay as they are.
        key: of all noise.
        args: of the loss, after `params`; the same for all members.
        population: members of a step; None: 128.
        sigma: of the perturbations, or a function from step to it; None: 0.05.
        strategy: instead of these two, with all its settings.
        optimizer: of optax; None: `optax.adam(0.02)`, whose rate falls to 0 over
            `steps`, along a cosine; `with_master_weights` for bfloat16.
        steps: how many to make, at most.
        target: stops at the step whose best loss so far is as low as this.
        patience: stops after that many steps in which the best loss did not improve.
        min_improvement: what improves it by no more, does not.
        seconds: stops when they have passed, compilation included.
        report: is given what there is so far; to stop, it returns True.
        report_every: after how many steps it and the clock are asked; None: after a
            hundredth of all, and at most 100.

    Returns:
        What was found; if it is interrupted from the keyboard, until then.

    Raises:
        TypeError: if there is no key, or the loss cannot be called so.
        ValueError: if the loss is no number, or changes a module's state; for settings
            that cannot work.
    """
    rules = Rules(steps, target, patience, min_improvement, seconds, report_every)
    strategy = _strategy(strategy, population, sigma)
    _check_call(loss, key)
    opened = adapters.opened(loss, params, args)
    parts = Parts.of(opened.params, opened.args)
    optimizer = _optimizer(optimizer, steps, parts.learns)
    pure = _without_state(opened.function)
    run = Steps(pure, strategy, optimizer, key, parts.rest, rules)
    return _minimised(run, parts, opened.close, report)


def _minimised(
    run: Steps, parts: Parts, close: Callable[[PyTree], PyTree], report: Any
) -> Minimum:
    """Makes blocks of steps until there is a reason to stop."""
    began, rules, arrays = time.monotonic(), run.rules, parts.arrays
    # Nothing is donated: an interrupt between a call and its result would lose both.
    begin, go_on = _compiled(run.begin), _compiled(run.go_on)
    state = begin(parts.learns, arrays)
    history = np.empty((ROWS, rules.steps), state.value.dtype)

    def found(state: State, reason: Stop = Stop.NOTHING) -> Minimum:
        n = int(state.step)
        whole = lambda learns: close(Parts(learns, arrays, parts.rest).joined()[0])
        return Minimum(
            params=whole(state.params),
            value=float(state.value),
            best=whole(state.best),
            best_value=float(state.best_value),
            steps=n,
            evaluations=1 + n * (run.strategy.population + 1),
            seconds=time.monotonic() - began,
            reason=reason,
            history=History(*history[:, :n]),
        )

    block: tuple[State, Any] = state, np.empty((ROWS, 0))
    reason = _ended(state, rules, began)
    try:
        while not reason:
            block = go_on(block[0], arrays)  # both at once: whole if interrupted
            _record(history, *block)
            wants_to_stop = report is not None and report(found(block[0]))
            reason = _ended(block[0], rules, began)
            reason = reason or (Stop.REPORT if wants_to_stop else Stop.NOTHING)
    except KeyboardInterrupt:
        reason = Stop.INTERRUPT
        _record(history, *block)
    return found(block[0], reason)


def _compiled(function: Callable) -> Callable:
    """Compiles a function in which members may fail, though NaNs be errors."""
    compiled = jax.jit(function)

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        with notices.failures_allowed():
            return compiled(*args)

    return run


def _record(history: np.ndarray, state: State, rows: Any) -> None:
    """Writes the rows of a block where they belong, as often as one likes."""
    n, size = int(state.step), rows.shape[1]
    if n:
        start = (n - 1) // size * size  # all blocks but the last are full
        history[:, start:n] = np.asarray(rows)[:, : n - start]


def _ended(state: State, rules: Rules, began: float) -> Stop:
    """Whether there is a reason to stop, and which."""
    if stop := int(state.stop):
        return [*Stop][stop]
    if int(state.step) >= rules.steps:
        return Stop.STEPS
    if rules.seconds is not None and time.monotonic() - began >= rules.seconds:
        return Stop.SECONDS
    return Stop.NOTHING


def _strategy(
    strategy: EvolutionStrategy | None, population: int | None, sigma: Any
) -> EvolutionStrategy:
    if strategy is None:
        return EvolutionStrategy(
            128 if population is None else population, 0.05 if sigma is None else sigma
        )
    if not isinstance(strategy, EvolutionStrategy):
        raise TypeError(
            f"strategy must be an eggroll.EvolutionStrategy, got a "
            f"{type(strategy).__name__}"
        )
    if population is not None or sigma is not None:
        raise ValueError(
            "give either strategy= or population= and sigma=, not both: a strategy has "
            "its own"
        )
    return strategy


def _optimizer(
    optimizer: optax.GradientTransformation | None, steps: int, params: PyTree
) -> optax.GradientTransformationExtraArgs:
    if optimizer is None:
        optimizer = optax.adam(optax.cosine_decay_schedule(0.02, steps))
        if any(x.dtype.itemsize < 4 for x in jax.tree.leaves(params)):
            optimizer = with_master_weights(optimizer)
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"optimizer must be one of optax, such as optax.adam(0.02), got "
            f"{optimizer!r}"
        )
    return optax.with_extra_args_support(optimizer)


def _check_call(loss: Callable, key: PRNGKeyArray) -> None:
    how = "minimise(loss, params, key, *args)"
    if not callable(loss):
        raise TypeError(
            f"expected a function, got a {type(loss).__name__}: call it as {how}"
        )
    calls.check_key(key, position="third", call=how)


def _without_state(function: Callable[..., tuple[Any, PyTree]]) -> Callable[..., Any]:
    """The function of an opened call, which may not change objects."""

    @functools.wraps(function, updated=())
    def result(*args: Any, **kwargs: Any) -> Any:
        result, state = function(*args, **kwargs)
        if state is not None:
            raise ValueError(
                "the loss changes the state of a module (batch statistics, counts of "
                "random keys), which minimise does not carry from step to step: set "
                "the module to evaluation, or write a loop with value_and_grad, which "
                "keeps it"
            )
        return result

    return result
