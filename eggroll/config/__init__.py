"""What a run is told: frozen dataclasses, from YAML files and the command line."""

from eggroll.config.loading import flat, load, load_sweep, override, resolve
from eggroll.config.pieces import Schedule
from eggroll.config.schema import Config, plain


__all__ = [
    "Config",
    "Schedule",
    "flat",
    "load",
    "load_sweep",
    "override",
    "plain",
    "resolve",
]
