"""States made again from what their steps had for fitness, without evaluating anything.

The update is the program that training uses, on the same numbers: what comes out is the
same to the bit, on the same kind and number of devices. Settings that a run may change
are those of the log, sitting by sitting.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from eggroll.config import Config
from eggroll.errors import UserError
from eggroll.runs import metrics, replaylog, seals
from eggroll.runs.digest import digests
from eggroll.runs.directory import Run
from eggroll.runs.replaylog import Damaged, Record
from eggroll.training import donation, processes
from eggroll.training.algorithms import Algorithm
from eggroll.training.budget import Progress
from eggroll.training.experiment import Experiment, placements, writes_over
from eggroll.training.parts import Evaluated, Metrics, Parts
from eggroll.training.placement import placed, settled
from eggroll.training.sittings import Sitting
from eggroll.training.state import Purpose, State, key_for


class Rebuilt(NamedTuple):
    """Where a log leads.

    Attributes:
        state: Made again.
        step: Its number.
        progress: What the run had used.
        config: The settings that were in force.
    """

    state: State
    step: int
    progress: Progress
    config: Config


def stepped(
    algorithm: Algorithm, state: State, data: PyTree, *, over: bool = False
) -> tuple[State, Metrics, dict[str, Any]]:
    """A step: its state, its metrics and what its log takes; none, if it has none.

    Args:
        algorithm: That makes it.
        state: Before it.
        data: That it reads.
        over: Whether it may write over the state's arrays.
    """
    parts = algorithm.parts
    if parts is None:
        step = (over and algorithm.step_over) or algorithm.step
        return *step(state, data), {}
    found = parts.evaluate(state, data)
    state, metrics = ((over and parts.learn_over) or parts.learn)(state, found)
    return state, metrics, kept(state, found)


def kept(state: State, found: Evaluated) -> dict[str, Any]:
    """What goes to the log of a step.

    Args:
        state: After it.
        found: By the evaluation.
    """
    numbers = {"fitness": found.fitness}
    if found.centre is not None:
        numbers["centre"] = found.centre
    shared = enumerate(jax.tree.leaves(state.task))
    return numbers | {f"task/{i}": _words(leaf) for i, leaf in shared}


def caught_up(
    experiment: Experiment, run: Run, base: Rebuilt, report: Callable[[str], None]
) -> Rebuilt:
    """Where a run was when it was cut off, as far as its log tells.

    Args:
        experiment: Of the run.
        run: That is resumed.
        base: Its newest checkpoint.
        report: Told in words what is wrong with the log.
    """
    parts = experiment.algorithm.parts
    last = processes.by_first(lambda: _last(run, base.step, report))
    if parts is None or last == base.step:
        return base
    if parts.carries():
        report(
            f"the steps from {base.step + 1} to {last} are made again: what members "
            "keep from step to step is not in the log"
        )
        return base
    try:
        return rebuilt(experiment, run.replay, base, last)
    except UserError as error:
        report(f"the steps from {base.step + 1} to {last} are made again: {error}")
        return base


def rebuilt(
    experiment: Experiment,
    directory: Path,
    base: Rebuilt,
    until: int | None = None,
    *,
    evaluating: bool = False,
) -> Rebuilt:
    """Goes through a log from a state on.

    Args:
        experiment: Of the run.
        directory: Of the log.
        base: Where to begin.
        until: The step to get to; None: the last one.
        evaluating: Make the steps anew where fitness does not tell all: where members
            keep something from step to step.

    Raises:
        UserError: The log does not lead there, or elsewhere than it did.
    """
    state, step, progress, config = base
    over = writes_over(experiment)  # the same program as in training
    state = donation.apart(state) if over else state
    known, sitting = seals.sealed(directory), Sitting(experiment)
    _check(state, known.get(step, {}), directory, step, but_carry=True)
    try:
        for segment, record in replaylog.records(directory, base.step, until):
            sitting = sitting.of(segment)
            state = settled(state, sitting.lies)
            evaluates = evaluating and sitting.parts.carries()
            if evaluates:
                state = again_by_evaluating(sitting.experiment, state, step, over)
            else:
                state = again(sitting.parts, state, record.arrays, over=over)
            step, progress = record.step, _used(record)
            config = sitting.experiment.config
            carries = sitting.parts.carries() and not evaluates
            _check(state, known.get(step, {}), directory, step, but_carry=carries)
    except Damaged as error:
        raise UserError(str(error)) from None
    if until is not None and step != until:
        raise UserError(
            f"{directory}: there is no record of step {step + 1}: the last step that "
            f"can be made again is {step}"
        )
    state = settled(state, placements(experiment))
    return Rebuilt(state, step, progress, config)


def again(
    parts: Parts, state: State, arrays: dict[str, np.ndarray], *, over: bool = False
) -> State:
    """The state after a step whose evaluation found these numbers.

    Args:
        parts: Of the step.
        state: Before it.
        arrays: The numbers.
        over: Whether the step may write over the state's arrays.
    """
    found = parts.blank(state)

    def given(like: Any, name: str) -> Any:
        if not isinstance(like, jax.Array):
            return arrays[name]
        return placed(arrays[name], like.sharding)

    found = found._replace(fitness=given(found.fitness, "fitness"))
    if found.centre is not None:
        found = found._replace(centre=given(found.centre, "centre"))
    new, _ = ((over and parts.learn_over) or parts.learn)(state, found)
    leaves, structure = jax.tree.flatten(state.task)
    shared = [_unworded(arrays[f"task/{i}"], leaf) for i, leaf in enumerate(leaves)]
    return new._replace(task=structure.unflatten(shared), carry=state.carry)


def again_by_evaluating(
    experiment: Experiment, state: State, step: int, over: bool
) -> State:
    """The state after a step that is made as in training."""
    task = experiment.task
    data = task.batch(state.task, step, key_for(state.key, Purpose.BATCH, step))
    return stepped(experiment.algorithm, state, data, over=over)[0]


def _check(
    state: State, known: dict[str, str], log: Path, step: int, *, but_carry: bool
) -> None:
    """Refuses a state that is not what it was when it was saved."""
    found = digests(state) if known else {}
    for name, digest in known.items():
        if found.get(name) == digest or (but_carry and name.startswith(".carry")):
            continue
        written = replaylog.segments(log)[-1].facts["versions"]
        was = ", ".join(f"{package} {one}" for package, one in written.items())
        raise UserError(
            f"{log}: the state of step {step} is not what it was ({name} differs): it "
            f"takes the same start, kind of device and versions ({was})"
        )


def _last(run: Run, step: int, report: Callable[[str], None]) -> int:
    """The last step that a log leads to and that has its row of figures."""
    ends, at = False, step
    written = {row["step"] for row in metrics.read(run.metrics)}
    try:
        for _, record in replaylog.records(run.replay, step):
            if record.step not in written:
                break
            at, ends = record.step, record.ends
    except Damaged as error:
        report(f"{error}; later ones are made again")
        shutil.copytree(run.replay, _free(run.path / "damaged" / "replay"))
    else:
        if lost := replaylog.torn(run.replay, at):
            report(f"{run.replay}: the last {lost} bytes are no whole record: dropped")
    return at - 1 if ends and at > step else at  # how it ended is found out again


def _used(record: Record) -> Progress:
    """What a run had used by a step."""
    whole = {"evaluations": int(record.progress["evaluations"])}
    return Progress.read({**record.progress, **whole})


def _free(path: Path) -> Path:
    """This path, or the first of `path-2`, `path-3`, ... that is free."""
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


def _words(leaf: Any) -> Any:
    """An array, of random keys their words."""
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _unworded(words: np.ndarray, like: jax.Array) -> PyTree:
    """An array from what `_words` made of one, where that one lies."""
    if not jax.dtypes.issubdtype(like.dtype, jax.dtypes.prng_key):
        return placed(words, like.sharding)
    keys = jax.random.wrap_key_data(
        jnp.asarray(words), impl=str(jax.random.key_impl(like))
    )
    return placed(keys, like.sharding)
