"""From settings to a trained model: algorithms over one state, in one loop."""

from eggroll.training import diagnostics, instantiate, parts, replay, rewinding
from eggroll.training.algorithms import Algorithm, evolution, find
from eggroll.training.budget import Outcome, Progress, Stop
from eggroll.training.experiment import (
    Experiment,
    initial_state,
    memory,
    prepare,
    validated,
)
from eggroll.training.halves import Evolution, Metrics
from eggroll.training.integer import Stepping, integer_algorithm
from eggroll.training.loop import train
from eggroll.training.members import generation_of
from eggroll.training.parts import Evaluated, Parts
from eggroll.training.state import Purpose, State, key_for


__all__ = [
    "Algorithm",
    "Evaluated",
    "Evolution",
    "Experiment",
    "Metrics",
    "Outcome",
    "Parts",
    "Progress",
    "Purpose",
    "State",
    "Stepping",
    "Stop",
    "diagnostics",
    "evolution",
    "find",
    "generation_of",
    "initial_state",
    "instantiate",
    "integer_algorithm",
    "key_for",
    "memory",
    "parts",
    "prepare",
    "replay",
    "rewinding",
    "train",
    "validated",
]
