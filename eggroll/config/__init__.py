"""What a run is told: frozen dataclasses, from YAML files and the command line."""

from eggroll.config.bounds import (
    Bounds,
    Count,
    Natural,
    NonNegative,
    Positive,
    Share,
    check_bounds,
)
from eggroll.config.loading import flat, kinds, load, load_sweep, override, resolve
from eggroll.config.pieces import Choice, Schedule
from eggroll.config.schema import Config, plain


__all__ = [
    "Bounds",
    "Choice",
    "Config",
    "Count",
    "Natural",
    "NonNegative",
    "Positive",
    "Schedule",
    "Share",
    "check_bounds",
    "flat",
    "kinds",
    "load",
    "load_sweep",
    "override",
    "plain",
    "resolve",
]
