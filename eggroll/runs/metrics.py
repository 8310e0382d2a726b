"""Where the figures of a run go: JSON lines always, other sinks on request."""

import importlib.util
import json
import math
from collections.abc import Mapping
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
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, row: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


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


class Recorder:
    """Hands each row to every sink; a context manager that closes them."""

    def __init__(self, sinks: list[Sink]):
        self._sinks = sinks

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Records a step's figures; those that are no finite number are left out."""
        row = {name: value for name, value in row.items() if math.isfinite(value)}
        for sink in self._sinks:
            sink.write(step, row)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sink in self._sinks:
            sink.close()


def recorder(directory: Path, config: Config) -> Recorder:
    """The sinks that a run's settings ask for."""
    sinks: list[Sink] = [JsonLines(directory / "metrics.jsonl")]
    if "tensorboard" in config.sinks:
        sinks.append(TensorBoard(directory / "tensorboard"))
    if "wandb" in config.sinks:
        sinks.append(WeightsAndBiases(directory, config))
    return Recorder(sinks)


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
