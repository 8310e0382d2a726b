"""Whether a run may go on from a checkpoint, and what is said of that."""

from typing import Any

from eggroll.errors import UserError
from eggroll.runs.checkpoint import Checkpoints, Restored
from eggroll.runs.directory import Run, check_edits, versions
from eggroll.training import processes
from eggroll.training.state import State


def resumed(run: Run, checkpoints: Checkpoints, like: State) -> Restored:
    """The newest checkpoint that is whole; damaged ones are moved out of the way.

    Raises:
        UserError: There is none, or `config.yaml` has become that of another run.
    """
    # Before the state, which other settings might not fit.
    if (facts := checkpoints.facts()) is not None:
        check_edits(run, facts["config"])
    restored = checkpoints.restore(like=like)
    processes.by_first(lambda: checkpoints.set_aside(list(restored.damaged)))
    checkpoints.reload()
    return restored


def notices(run: Run, restored: Restored) -> list[str]:
    """What differs from a run that never stopped, in words."""
    facts: dict[str, Any] = restored.facts
    afresh = (
        "what members keep from step to step was not in the log that this run was made "
        "from: it begins afresh, and figures differ from those of that run"
    )
    return [
        *([afresh] if facts.get("is_afresh") else []),
        *(
            f"checkpoint {step} is damaged and passed over: {reason}"
            for step, reason in restored.damaged.items()
        ),
        *check_edits(run, facts["config"]),
        *(
            f"{package} was {facts['versions'][package]} and is {version} now: "
            "figures may differ from those of a run that never stopped"
            for package, version in versions().items()
            if facts["versions"].get(package, version) != version
        ),
    ]


def check_beginning(run: Run, rows: list[dict[str, Any]]) -> None:
    """Refuses to begin where there was a run whose checkpoints are gone."""
    if any(row["step"] > 0 for row in rows):
        raise UserError(
            f"{run.path} has figures but no checkpoint to resume from: start another "
            "run"
        )
