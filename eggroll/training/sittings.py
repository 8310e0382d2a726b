"""With what settings, and on what, the steps of a log were made."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eggroll.config import Config, loading
from eggroll.config.schema import plain
from eggroll.errors import UserError
from eggroll.runs import origin
from eggroll.runs.directory import differences, versions
from eggroll.runs.replaylog import Segment
from eggroll.training import instantiate
from eggroll.training.experiment import Experiment, placements, prepare


DECIDING = ("mesh", "optimizer", "strategy")  # of settings, on what is learnt


def facts(experiment: Experiment) -> dict[str, Any]:
    """What the log notes of a sitting."""
    return {
        "config": plain(experiment.config),
        "devices": instantiate.mesh(experiment.config).size,
        "versions": versions(),
    }


def in_force(ours: Config, saved: Mapping[str, Any], where: Path) -> Config:
    """Our settings, but of those that decide what is learnt the ones that were noted.

    Args:
        ours: Of the run.
        saved: Plain data, of an earlier sitting of it.
        where: They are from.

    Raises:
        UserError: They name code that ours do not.
    """
    names = set(origin.names_of(saved)) - set(origin.names_of(plain(ours)))
    if names:
        raise UserError(f"{where}: names code that the run does not: {sorted(names)}")
    theirs = loading.resolve({**saved, "task": plain(ours.task)})
    decided = {name: getattr(theirs, name) for name in DECIDING}
    return dataclasses.replace(ours, **decided)


class Sitting:
    """What a segment of a log was written by; made again if settings have changed."""

    def __init__(self, experiment: Experiment):
        parts = experiment.algorithm.parts
        if parts is None:
            raise UserError(
                f"algorithm: {experiment.config.algorithm!r} has no replay log, as "
                "what it learns does not follow from the fitness of members alone"
            )
        self.experiment, self.parts = experiment, parts
        self.lies = placements(experiment)
        self._written = {**facts(experiment), "versions": None}

    def of(self, segment: Segment) -> "Sitting":
        """This one, or another with the settings of the segment."""
        written = {name: segment.facts.get(name) for name in ("config", "devices")}
        if {**written, "versions": None} == self._written:
            return self
        config = in_force(self.experiment.config, segment.facts["config"], segment.path)
        changed = differences(self.experiment.config, config)
        found = Sitting(prepare(config)) if changed else self
        devices = facts(found.experiment)["devices"]
        if written["devices"] != devices and config.mesh.fixed_order is None:
            raise UserError(
                f"{segment.path} was written on {written['devices']} devices, and "
                f"here are {devices}, where floats differ in their last bits: go to a "
                "machine like that one, or to a checkpoint"
            )
        found._written = {**written, "versions": None}
        return found
