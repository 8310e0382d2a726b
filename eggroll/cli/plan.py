"""What `eggroll info` tells: what a config would run, and the room it would take."""

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import jax
from jaxtyping import PyTree

from eggroll import training
from eggroll.config import Config, kinds, load, plain, yamlfile
from eggroll.config.bounds import bounds_of
from eggroll.evolution import memory
from eggroll.evolution.report import Coverage, coverage
from eggroll.evolution.strategy import EvolutionStrategy
from eggroll.task import first_row
from eggroll.training import Experiment, instantiate
from eggroll.training.algorithms import ADAPTING


Say = Callable[[str], None]
T = TypeVar("T")


def info(config: str, overrides: Sequence[tuple[str, str]], say: Say) -> int:
    """Tells what a config would run; reads no weights, and computes nothing."""
    loaded = load(config, overrides, name=Path(config).stem)
    experiment = training.prepare(loaded)
    say(yamlfile.dump(plain(loaded)))
    _tell_ranges(loaded, say)
    about = inspect.getdoc(experiment.task) or ""
    say(f"{loaded.task.path}: {about.partition(chr(10))[0]}")
    leaves = jax.tree.leaves(experiment.task.params_like())
    say(f"{sum(leaf.size for leaf in leaves):,} parameters in {len(leaves)} arrays")
    for name, text in getattr(experiment.task, "describe", dict)().items():
        say(f"{name}: {text}")
    if told := samples_in_words(experiment):
        say(told)
    if experiment.algorithm.strategy is not None:
        _tell_population(experiment, experiment.algorithm.strategy, say)
    _tell_memory(experiment, say)
    return 0


def samples_in_words(experiment: Experiment) -> str:
    """How many samples a run takes at most, of a task with `most_samples`; or nothing.

    That is what an evaluation takes at most; how many evaluations a step makes is known
    of evolution alone.
    """
    (config, task, algorithm), budget = experiment, experiment.config.budget
    each = getattr(task, "most_samples", None)
    if each is None or config.algorithm not in (*ADAPTING, "integer"):
        return ""
    step = each * algorithm.members
    told = f"{task.samples}: at most {step:,} a step ({algorithm.members:,} × {each:,})"
    if budget.generations:
        told += f", {step * budget.generations:,} in {budget.generations:,} steps"
    if budget.samples:
        told += f"; {budget.samples:,.0f} suffice for {budget.samples // step:,.0f}"
    return told


def _tell_ranges(config: Config, say: Say) -> None:
    found = {name: bounds_of(kind) for name, kind in kinds(config).items()}
    known = {name: str(bounds) for name, bounds in found.items() if bounds}
    width = max(map(len, known))
    lines = (f"  {name:<{width}}  {bounds}" for name, bounds in known.items())
    say("\n".join(["ranges:", *lines, ""]))


def _tell_population(
    experiment: Experiment, strategy: EvolutionStrategy, say: Say
) -> None:
    """Says how each parameter is perturbed, and what that takes of each device."""
    config, found = experiment.config, coverage_of(experiment)
    say(f"\n{found}\n")
    mesh = instantiate.mesh(config)
    members, budget = strategy.population // mesh.size, memory.budget()
    chunk = strategy.chunk_size or memory.rows_within(budget, found.bytes_per_member)
    chunk = min(chunk, members)
    axes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    say(f"mesh: {axes}")
    say(
        f"{strategy.population:,} members on {mesh.size} device(s), at once "
        f"{chunk:,} on each: at most {_size(found.bytes_per_member)} a member, "
        f"{_size(budget)} a device"
    )


def _tell_memory(experiment: Experiment, say: Say) -> None:
    found = training.memory(experiment)
    say(
        f"a step takes about {_size(found.peak)} of each device: "
        f"{_size(found.arguments)} of arguments (parameters, optimiser, data), "
        f"{_size(found.results)} of results, {_size(found.temporaries)} between them"
    )


def _params(experiment: Experiment) -> PyTree:
    """The shapes and types of the parameters, as the run has them."""
    precise = functools.partial(instantiate.precise, experiment.config)
    return jax.eval_shape(precise, experiment.task.params_like())


def coverage_of(experiment: Experiment) -> Coverage:
    """How each parameter is perturbed, by an algorithm that draws members."""
    strategy, params = experiment.algorithm.strategy, _params(experiment)
    assert strategy is not None
    task = experiment.task
    axes = task.data_axes, 0
    given = task.batch_like(), task.initial_carry(strategy.population)
    data, carry = jax.eval_shape(lambda given: first_row(given, axes), given)
    evaluate = lambda params, data, carry, *, key: task.evaluate(
        params, data, carry, key
    )
    cover = functools.partial(coverage, rank=strategy.rank, rules=strategy.rules)
    return _abstractly(lambda params: cover(evaluate, params, data, carry), params)


def _abstractly(function: Callable[[PyTree], T], like: PyTree) -> T:
    """What `function` finds out about arrays like these, without having them."""
    found = []
    jax.eval_shape(lambda arrays: found.append(function(arrays)), like)
    return found[0]


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
