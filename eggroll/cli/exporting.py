"""What `eggroll export` does: a run's parameters, for others to read."""

from pathlib import Path
from typing import NamedTuple

from eggroll import training
from eggroll.cli.commands import Saved, Say, restore
from eggroll.errors import UserError
from eggroll.runs import atomic, tensors
from eggroll.task import Export
from eggroll.training import instantiate


class Wanted(NamedTuple):
    """What is to be exported.

    Attributes:
        format: hf, lora or safetensors.
        directory: Where to; None for one in `exports` of the run.
        member: Of the generation that follows the step; None for what was learnt.
        rank: Of an adapter that is none of a member, at most; None for 16.
    """

    format: str
    directory: Path | None
    member: int | None
    rank: int | None


def export(saved: Saved, wanted: Wanted, say: Say) -> int:
    """Writes what a run learnt, in a format that others read."""
    format, path, member, rank = wanted
    if rank is not None and (rank < 1 or format != "lora" or member is not None):
        raise UserError(
            "--rank: a positive number, for --format lora without --member: a member "
            "has the rank it was drawn with"
        )
    if path is not None and path.exists():
        raise UserError(f"--output: {path} exists already: choose another directory")
    run, experiment, restored = restore(saved, say)
    make = getattr(experiment.task, "export", None)
    if make is None and format != "safetensors":
        task = type(experiment.task).__name__
        raise UserError(
            f"{run.path}: the task {task} has no {format} to write: --format "
            "safetensors writes the parameters of any run"
        )
    name = f"step-{restored.step}" + ("" if member is None else f"-member-{member}")
    path = path or run.path / "exports" / f"{name}-{format}"
    params, factors = restored.state.params, None
    if member is not None:
        strategy, generation = training.generation_of(experiment, restored.state)
        with instantiate.blaming("--member"):
            factors = strategy.factors(generation, member)
            params = strategy.member(generation, params, member)
    start = lambda: training.initial_state(experiment).params
    with atomic.making(path) as new, instantiate.blaming(f"--format {format}"):
        if make is not None:
            said = make(Export(format, new, params, start, factors, rank or 16))
        else:
            facts = {"run": run.config.name or "", "step": str(restored.step)}
            count = tensors.write(new / "params.safetensors", params, facts)
            said = [f"{count} arrays, by the paths of their leaves"]
    for line in said:
        say(line)
    say(f"{run.path} at step {restored.step}: {path}")
    return 0
