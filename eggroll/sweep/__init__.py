"""Random search over settings: trials of several seeds, their record and picture."""

from eggroll.sweep.record import Record, Result, Trial
from eggroll.sweep.search import Sweep, sweep


__all__ = ["Record", "Result", "Sweep", "Trial", "sweep"]
