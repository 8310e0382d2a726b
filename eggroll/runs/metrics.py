"""Where the figures of a run go: JSON lines always, other sinks on request."""

import contextlib
import importlib.util
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

from eggroll.config import Config, plain
from eggroll.errors import UserError
from eggroll.runs import atomic


Row = dict[str, Any]


class Sink(Protocol):
    """Anything that takes the figures of a step."""

    def write(self, step: int, row: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class JsonLines:
    """One JSON object a line; a line counts once it ends."""

    def __init__(self, path: Path):
        self._path = path
        with self._blaming():
            self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, row: Mapping[str, float]) -> None:
        with self._blaming():
            self._file.write(json.dumps({"step": step, **row}) + "\n")
            self._file.flush()

    def settle(self) -> None:
        """Returns once a loss of power would leave all that was written."""
        with self._blaming():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with self._blaming():
            self._file.close()

    @contextlib.contextmanager
    def _blaming(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._path} cannot be written ({error.strerror}): make room, or "
                "allow it to be written, and resume"
            ) from error


class Unwritten:
    """Rows that another process writes."""

    def write(self, step: int, row: Mapping[str, float]) -> None:
        pass

    def settle(self) -> None:
        pass

    def close(self) -> None:
        pass


class TensorBoard:
    """Event files for TensorBoard."""

    def __init__(self, directory: Path):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory))

    def write(self, step: int, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run on Weights & Biases; a resumed one is another of the same group."""

    def __init__(self, directory: Path, config: Config):
        import wandb

        self._run = wandb.init(
            project="eggroll",
            group=directory.name,
            dir=str(directory),
            config=plain(config),
        )

    def write(self, step: int, row: Mapping[str, float]) -> None:
        self._run.log(dict(row), step=step)

    def close(self) -> None:
        self._run.finish()


Lost = Callable[[str, Exception], None]


class Recorder:
    """Hands each row to every sink; a context manager that closes them."""

    def __init__(self, lines: JsonLines | Unwritten, others: list[Sink], lost: Lost):
        """Takes the sinks.

        Args:
            lines: Without which there is no run: what it raises is raised.
            others: What one of these raises detaches it.
            lost: Told of that, by its name.
        """
        self._lines, self._others, self._lost = lines, others, lost

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Records a step's figures; those that are no finite number are left out."""
        row = {name: value for name, value in row.items() if math.isfinite(value)}
        self._lines.write(step, row)
        self._each(lambda sink: sink.write(step, row))

    def settle(self) -> None:
        """Returns once the rows so far are safe on the disk."""
        self._lines.settle()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._each(lambda sink: sink.close())
        self._lines.close()

    def _each(self, action: Callable[[Sink], None]) -> None:
        for sink in list(self._others):
            try:
                action(sink)
            except Exception as error:  # of other people's packages, or of a network
                self._others.remove(sink)
                self._lost(type(sink).__name__, error)


def recorder(directory: Path, config: Config, lost: Lost) -> Recorder:
    """The sinks that a run's settings ask for; `lost` is told of one that fails."""
    lines = JsonLines(directory / "metrics.jsonl")
    sinks: list[Sink] = []
    if "tensorboard" in config.sinks:
        sinks.append(TensorBoard(directory / "tensorboard"))
    if "wandb" in config.sinks:
        sinks.append(WeightsAndBiases(directory, config))
    return Recorder(lines, sinks, lost)


def check_sinks(config: Config) -> None:
    """Refuses a sink whose package is not installed."""
    packages = {"tensorboard": "tensorboardX", "wandb": "wandb"}
    for sink in config.sinks:
        if importlib.util.find_spec(packages[sink]) is None:
            raise UserError(
                f"sinks: {packages[sink]} is not installed: "
                f"pip install 'eggroll-jax[{sink}]'"
            )


def read(path: Path) -> list[Row]:
    """The rows of a `metrics.jsonl` that can be read, one a step, in their order."""
    return examine(path)[0]


def examine(path: Path) -> tuple[list[Row], list[str]]:
    """The rows of a `metrics.jsonl`, and what is wrong with the file, in words.

    A last line that a kill cut short is not wrong; of steps that are there twice, the
    last row counts.
    """
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return [], []
    rows: dict[int, Row] = {}
    damaged, twice = [], []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        row = _row(line)
        if row is None:
            damaged.append(number)
            continue
        if row["step"] in rows:
            twice.append(row["step"])
        rows[row["step"]] = row
    ordered = [rows[step] for step in sorted(rows)]
    lost = sorted(set(range(max(rows, default=-1) + 1)) - set(rows))
    return ordered, [
        f"{path}: {what} {spans(numbers)} {is_}"
        for numbers, what, is_ in (
            (damaged, "line", "cannot be read and is passed over"),
            (twice, "step", "is there twice: the last row counts"),
            (lost, "step", "is not there: there is a hole"),
        )
        if numbers
    ]


def forget_after(path: Path, step: int) -> list[str]:
    """Drops what is damaged, and the rows of later steps, which are made again.

    Returns:
        What was or is wrong with the rows up to `step`, in words.
    """
    rows, troubles = examine(path)
    kept = [row for row in rows if row["step"] <= step]
    atomic.write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
    last = kept[-1]["step"] if kept else -1
    if last < step:
        lost = spans(list(range(last + 1, step + 1)))
        troubles.append(f"{path}: step {lost} is not there: there is a hole")
    return troubles


def spans(numbers: list[int]) -> str:
    """Whole numbers as `3, 5 to 9`, of many the first ones alone."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    words = [str(a) if a == b else f"{a} to {b}" for a, b in runs]
    return ", ".join(words[:5]) + (" and others" if len(words) > 5 else "")


def _row(line: str) -> Row | None:
    """The figures of a line; None, if it is none of ours."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not all(map(_is_number, row.values())):
        return None
    step = row.get("step")
    return row if isinstance(step, int) and step >= 0 else None


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63
