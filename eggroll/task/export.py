"""What a run is asked for when it is exported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import PyTree


class Export(NamedTuple):
    """What a task's method `export(wanted) -> lines to say` is to write.

    The method is found by name, as `sample` and `render` are; tasks without it have
    their parameters written as safetensors and nothing else. What cannot be written it
    refuses with a `ValueError`.

    Attributes:
        format: "hf", "lora" or "safetensors".
        directory: where to: there, empty, and given its name once it is whole.
        params: what was learnt; or those of the member that was asked for.
        start: reads or draws what the run started from.
        factors: what the member adds to the parameters, `eggroll.Factors` in their
            place; None if no member was asked for.
        rank: the highest of an adapter that is none of a member.
    """

    format: str
    directory: Path
    params: PyTree
    start: Callable[[], PyTree]
    factors: Any = None
    rank: int = 16
