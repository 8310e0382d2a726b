"""Where the figures of a run go: JSON lines always, other sinks on request."""

import contextlib
import importlib.util
import json
import math
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

    def __init__(self, lines: JsonLines, others: list[Sink], lost: Lost):
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
    """The rows of a `metrics.jsonl`, without a last one that a kill cut short."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    try:
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged: {error}") from None


def forget_after(path: Path, step: int) -> None:
    """Drops the rows of later steps, which a resumed run makes again."""
    rows = [row for row in read(path) if row["step"] <= step]
    atomic.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
