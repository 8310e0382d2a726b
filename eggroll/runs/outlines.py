"""What can be told of a run without importing what its settings name."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from eggroll.perturbation.layout import named_leaves
from eggroll.runs import atomic
from eggroll.runs.directory import settings_of
from eggroll.task.protocol import Task


NAME = "task.json"


@dataclasses.dataclass(frozen=True)
class Outline:
    """A run, with of its task what a picture shows.

    Attributes:
        path: Of its directory.
        algorithm: Its name.
        samples: The plural name of what is counted.
        reference: Values of the headline metric worth a line, by name.
        maximise: Whether a larger headline metric is better.
        leaves: Paths of the parameters, as metrics number them.
    """

    path: Path
    algorithm: str
    samples: str = "samples"
    reference: Mapping[str, float] = dataclasses.field(default_factory=dict)
    maximise: bool = True
    leaves: tuple[str, ...] = ()

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def curve(self) -> Path:
        return self.path / "curve.png"


def note(path: Path, task: Task) -> None:
    """Writes into a run's directory what `outline` reads, unless it is there."""
    if not (path / NAME).exists():
        facts = {
            "samples": task.samples,
            "reference": _floats(task.reference),
            "maximise": bool(task.maximise),
            "leaves": [name for name, _ in named_leaves(task.params_like())],
        }
        atomic.write_text(path / NAME, json.dumps(facts) + "\n")


def outline(path: str | Path) -> Outline:
    """Reads the outline of a run; of one that has no `task.json`, the less.

    Raises:
        UserError: There is no run.
    """
    path = Path(path)
    algorithm = str(settings_of(path).get("algorithm", "eggroll"))
    try:
        facts = json.loads((path / NAME).read_text(encoding="utf-8"))
        return Outline(
            path,
            algorithm,
            str(facts["samples"]),
            _floats(facts["reference"]),
            bool(facts.get("maximise", True)),
            tuple(map(str, facts.get("leaves", ()))),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Outline(path, algorithm)


def _floats(numbers: Mapping[str, float]) -> dict[str, float]:
    return {str(name): float(one) for name, one in numbers.items()}
