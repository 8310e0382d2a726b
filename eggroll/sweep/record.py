"""The trials of a sweep: what each was, what came of it, and how they compare."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from eggroll.errors import UserError
from eggroll.runs import atomic


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished run of a trial came to.

    Attributes:
        metric: The name of its headline metric.
        value: That of the last validation.
        seconds: In all, as in `Progress`.
    """

    metric: str
    value: float
    seconds: float


@dataclasses.dataclass
class Trial:
    """Settings that are tried with several seeds.

    Attributes:
        number: From 0.
        settings: The searched ones, by dotted name.
        results: Of the runs that finished, by seed.
        failure: Why no more runs are made, if so.
    """

    number: int
    settings: dict[str, Any]
    results: dict[int, Result] = dataclasses.field(default_factory=dict)
    failure: str | None = None

    @property
    def values(self) -> np.ndarray:
        return np.array([one.value for one in self.results.values()])

    @property
    def mean(self) -> float:
        """Over seeds; NaN if none finished."""
        return float(np.mean(self.values)) if self.results else math.nan

    @property
    def error(self) -> float:
        """The standard error of the mean over seeds; NaN for fewer than two."""
        if len(self.results) < 2:
            return math.nan
        return float(np.std(self.values, ddof=1) / len(self.results) ** 0.5)

    @property
    def seconds(self) -> float:
        """In all, on average over seeds."""
        seconds = [one.seconds for one in self.results.values()]
        return float(np.mean(seconds)) if seconds else math.nan


@dataclasses.dataclass
class Record:
    """All of a sweep that is not in the directories of its runs.

    Attributes:
        maximise: Whether more of the headline metric is better.
        asked: What makes it this sweep: all settings and the space, by dotted name.
        trials: By number.
    """

    maximise: bool
    asked: dict[str, Any]
    trials: dict[int, Trial] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads back what `write` wrote."""
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            trials = {}
            for one in tree.pop("trials"):
                found = {int(seed): Result(**it) for seed, it in one["results"].items()}
                trials[one["number"]] = Trial(**(one | {"results": found}))
            return cls(**tree, trials=trials)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged: {error}") from None

    def write(self, path: Path) -> None:
        """Writes it all as JSON, at once, so that a kill leaves a whole file."""
        trials = [dataclasses.asdict(one) for one in self.trials.values()]
        tree = {**dataclasses.asdict(self), "trials": trials}
        atomic.write_text(path, json.dumps(tree, indent=1) + "\n")

    @property
    def metric(self) -> str:
        """The name of the headline metric, once a run has finished."""
        results = (
            one for trial in self.trials.values() for one in trial.results.values()
        )
        return next((one.metric for one in results), "result")

    def ranked(self) -> list[Trial]:
        """The trials of which a run has finished and none has failed, best first."""
        sound = [one for one in self.trials.values() if one.results and not one.failure]
        sign = -1 if self.maximise else 1
        return sorted(sound, key=lambda trial: sign * trial.mean)

    def failed(self) -> list[Trial]:
        """The trials that ended before their time."""
        return [one for one in self.trials.values() if one.failure]


def table(record: Record) -> str:
    """The trials as a table in Markdown, best first, and then those that failed."""
    trials = [*record.ranked(), *record.failed()]
    names = list(dict.fromkeys(name for trial in trials for name in trial.settings))
    head = ["trial", f"{record.metric} ± s.e.m.", "seeds", "seconds", *shortened(names)]
    rows = [
        [
            str(trial.number),
            "failed" if trial.failure else mean_and_error(trial),
            str(len(trial.results)),
            "-" if math.isnan(trial.seconds) else f"{trial.seconds:.1f}",
            *(worded(trial.settings[name]) for name in names),
        ]
        for trial in trials
    ]
    text = _aligned([head, *rows])
    reasons = [f"- trial {one.number}: {one.failure}" for one in record.failed()]
    return "\n".join([text, *(["", "Failed:", *reasons] if reasons else [])]) + "\n"


def mean_and_error(trial: Trial) -> str:
    """The mean over seeds and its standard error, in words."""
    error = "" if math.isnan(trial.error) else f" ± {trial.error:.2g}"
    return f"{trial.mean:.5g}{error}"


def in_words(trial: Trial) -> str:
    """What was tried and what came of it, in one line."""
    tried = zip(shortened(list(trial.settings)), trial.settings.values(), strict=True)
    result = f"failed, {trial.failure}" if trial.failure else mean_and_error(trial)
    return f"{result} with {', '.join(f'{name} {worded(one)}' for name, one in tried)}"


def shortened(names: Sequence[str]) -> list[str]:
    """The last parts of dotted names; the whole of those that share theirs."""
    last = [name.rsplit(".", 1)[-1] for name in names]
    return [
        short if last.count(short) == 1 else name
        for name, short in zip(names, last, strict=True)
    ]


def worded(value: Any) -> str:
    """A setting's value as a short word."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return " ".join(worded(one) for one in value.values())
    if isinstance(value, list | tuple):
        return "×".join(worded(one) for one in value)
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _aligned(rows: Iterable[Sequence[str]]) -> str:
    rows = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
