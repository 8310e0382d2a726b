"""What a run leaves on disk: settings, metrics, checkpoints, pictures.

`eggroll.runs.curves` is imported by those who draw: matplotlib loads slowly.
"""

from eggroll.runs import animation, atomic, metrics, tensors
from eggroll.runs.animation import Frame
from eggroll.runs.checkpoint import Checkpoints, Restored
from eggroll.runs.digest import digests
from eggroll.runs.directory import (
    Run,
    change,
    changed,
    check_edits,
    create,
    edited,
    ignore_in_git,
    load,
    may_change,
    settings_of,
    versions,
)
from eggroll.runs.lock import sitting
from eggroll.runs.outlines import Outline, outline


__all__ = [
    "Checkpoints",
    "Frame",
    "Outline",
    "Restored",
    "Run",
    "animation",
    "atomic",
    "change",
    "changed",
    "check_edits",
    "create",
    "digests",
    "edited",
    "ignore_in_git",
    "load",
    "may_change",
    "metrics",
    "outline",
    "settings_of",
    "sitting",
    "tensors",
    "versions",
]
