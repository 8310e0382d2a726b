"""A step's worth of members at several sizes of perturbation, before any training."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num

from eggroll.config import Config
from eggroll.errors import UserError
from eggroll.evolution.leaves import filled
from eggroll.evolution.validation import one_per_member
from eggroll.training import diagnostics, instantiate
from eggroll.training.algorithms import ADAPTING, Metrics
from eggroll.training.experiment import Experiment, initial_state, prepare
from eggroll.training.state import Purpose, State, key_for


STEP = 0.2  # of sigma, by which a step may move a weight: shipped runs take 0.06 to 0.5
AGREEMENT = 0.05  # of half-populations, from which runs learn soon
FACTORS = (1 / 16, 1 / 4, 1 / 2, 1, 2, 4, 16)


class Point(NamedTuple):
    """What was measured at one sigma, means over the repeats.

    Attributes:
        sigma: The standard deviation of each weight's perturbation.
        rank: Of the perturbations; None: full.
        mean: Of fitness.
        spread: Its standard deviation.
        tied: The share of members whose fitness another one has.
        equal: The share of antithetic pairs whose members have the same fitness.
        failed: The share of members without a finite fitness.
        agreement: The cosine of the gradients of half-populations; NaN: there is none.
        error: Its standard error.
        move: By how much a step of the run's optimiser would move a weight.
        values: How many values fitness has.
    """

    sigma: float
    rank: int | None
    mean: float
    spread: float
    tied: float
    equal: float
    failed: float
    agreement: float
    error: float
    move: float
    values: int


class Proposal(NamedTuple):
    """Settings to begin with.

    Attributes:
        best: The point whose sigma it is.
        learning_rate: With which a step moves weights by `STEP` sigma.
        population: With which half-populations agree by `AGREEMENT`, a power of two.
        is_signal: Whether any of the points shows a signal; if none, do not trust the
            rest.
    """

    best: Point
    learning_rate: float
    population: int
    is_signal: bool


def probe(
    config: Config, sigmas: Sequence[float], ranks: Sequence[int] = (), repeats: int = 4
) -> list[Point]:
    """Evaluates the initial population at each sigma, on the same data and noise.

    Args:
        config: Of the run.
        sigmas: To try.
        ranks: To try; by default that of the run.
        repeats: Batches of data, each with noise of its own.

    Raises:
        UserError: The algorithm has no sigma, or a number is out of range.
    """
    if config.algorithm not in ADAPTING:
        raise UserError(
            f"algorithm: {config.algorithm!r} has no sigma to probe; there is "
            f"{' and '.join(ADAPTING)}"
        )
    if repeats < 2 or not sigmas or not all(0 < one < np.inf for one in sigmas):
        raise UserError(
            f"expected sigmas above 0 and at least 2 repeats, got {list(sigmas)} and "
            f"{repeats}"
        )
    found = []
    for rank in ranks or (config.strategy.rank,):
        strategy = dataclasses.replace(config.strategy, rank=rank)
        experiment = prepare(dataclasses.replace(config, strategy=strategy))
        found += _of_rank(experiment, sigmas, repeats)
    return found


def proposal(points: Sequence[Point], config: Config) -> Proposal:
    """What to begin with: the middle of the sigmas whose signal is like the best.

    A gradient's halves agree by s / (1 + s), where s grows in proportion to the
    population (`diagnostics.agreement`).
    """
    usable = [one for one in points if np.isfinite(one.agreement)]
    if not usable:
        raise UserError(
            "at no sigma is there a gradient: all members have the same fitness, or "
            "fail; try larger ones with --sigmas, or look into the task's evaluate"
        )
    top = max(usable, key=lambda one: one.agreement)
    like = [
        one
        for one in usable
        if one.rank == top.rank and one.agreement >= top.agreement - top.error
    ]
    best = sorted(like, key=lambda one: one.sigma)[len(like) // 2]
    rate, population = config.optimizer.learning_rate.start, config.strategy.population
    if best.move > 0:
        rate *= STEP * best.sigma / best.move
    ratio = max(best.agreement, 1e-4) / (1 - min(best.agreement, 0.999))
    wanted = population * AGREEMENT / (1 - AGREEMENT) / ratio
    rounded = 2 ** int(np.clip(np.ceil(np.log2(wanted)), 3, 20))
    return Proposal(best, rate, rounded, bool(top.agreement > 2 * top.error))


def by_chance(share: float) -> float:
    """How many pairs are equal if each member wins with this probability, alone."""
    return share**2 + (1 - share) ** 2


def _of_rank(
    experiment: Experiment, sigmas: Sequence[float], repeats: int
) -> list[Point]:
    """The points of one rank, by programs that are compiled once for all sigmas."""
    config, task, _ = experiment
    ask, learn = _halves(experiment)
    state = initial_state(experiment)
    rank = None if config.algorithm == "openes" else config.strategy.rank
    points = []
    for sigma in sigmas:
        told: list[Metrics] = []
        values: set[float] = set()
        for step in range(repeats):
            key = key_for(state.key, Purpose.BATCH, step)
            data = task.batch(state.task, step, key)
            at = state._replace(step=jnp.int32(step))
            (fitness, _, aux), generation = ask(at, data, jnp.float32(sigma))
            if task.score is not None:
                scored = task.score(aux, data)
                scores = scored[0] if isinstance(scored, tuple) else scored
                scores = one_per_member(scores, fitness.shape[0], "fitness")
                fitness = jnp.asarray(np.asarray(scores, np.float32))
            told.append(jax.device_get(learn(at, generation, fitness, aux)))
            values |= set(np.asarray(fitness).tolist()[:4096])
        points.append(_point(sigma, rank, told, len(values)))
    return points


def _point(
    sigma: float, rank: int | None, told: Sequence[Metrics], values: int
) -> Point:
    column = lambda name: np.array([float(one[name]) for one in told])
    cosines = column("agreement")
    cosines = cosines[np.isfinite(cosines)]
    is_measured = len(cosines) > 1
    error = cosines.std(ddof=1) / np.sqrt(len(cosines)) if is_measured else np.nan
    return Point(
        sigma=float(sigma),
        rank=rank,
        mean=float(column("fitness/mean").mean()),
        spread=float(column("fitness/spread").mean()),
        tied=float(column("fitness/tied").mean()),
        equal=float(column("equal").mean()),
        failed=float(column("fitness/nonfinite").mean()),
        agreement=float(cosines.mean()) if is_measured else np.nan,
        error=float(error),
        move=float(np.median(column("update/rms"))),
        values=values,
    )


def _halves(experiment: Experiment) -> tuple[Any, Any]:
    """The members at a sigma, and what their fitness tells."""
    config, task, algorithm = experiment
    strategy = algorithm.strategy
    assert strategy is not None  # as it is for these algorithms
    optimizer = instantiate.optimizer(config, strategy.rules)
    with_sigma = lambda sigma: dataclasses.replace(strategy, sigma=sigma)

    def member(params, data, carry, *, key):
        return task.evaluate(params, data, carry, key)

    @jax.jit
    def ask(state: State, data: Any, sigma: Array):
        evaluate = with_sigma(sigma).ask(member, in_axes=(task.data_axes, 0))
        noise = key_for(state.key, Purpose.NOISE)
        return evaluate(state.params, noise, data, state.carry, step=state.step)

    @jax.jit
    def learn(
        state: State, generation: Any, fitness: Num[Array, " members"], aux: Any
    ) -> Metrics:
        es, params = with_sigma(generation.sigma), state.params
        combine = lambda weights: filled(es.combine(generation, weights), params)
        weights, even = es.weigh(fitness), fitness.shape[0] // 2 * 2
        is_half = jnp.arange(weights.shape[0]) // 2 % 2 == 0  # pairs stay together
        grads, half = combine(weights), combine(jnp.where(is_half, weights, 0))
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        told = {name: aux[name] for name in ("steps",) if name in aux}
        moves = diagnostics.of_update(params, params, updates, grads)
        return {
            **diagnostics.of_population(fitness, told),
            "update/rms": moves["update/rms"],
            "agreement": diagnostics.agreement(grads, half),
            "equal": jnp.mean(fitness[0:even:2] == fitness[1:even:2]),
        }

    return ask, learn
