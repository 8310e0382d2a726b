"""The battery: small programs of many kinds, and what should become of their leaves."""

from programs import (
    attention,
    convolutional,
    equations,
    generation,
    learning,
    mixtures,
    recurrent,
    weights,
)
from programs.registry import PROGRAMS, Leaf, Program, told


__all__ = [
    "PROGRAMS",
    "Leaf",
    "Program",
    "attention",
    "convolutional",
    "equations",
    "generation",
    "learning",
    "mixtures",
    "recurrent",
    "told",
    "weights",
]
