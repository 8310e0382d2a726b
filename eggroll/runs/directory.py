"""A run's directory: what it was told, what it measured, where it got to."""

import functools
import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from eggroll.config import Config, flat, loading, plain, yamlfile
from eggroll.errors import UserError
from eggroll.runs import atomic, origin
from eggroll.runs.lock import sitting


Differences = dict[str, tuple[Any, Any]]

# What may differ when a run is resumed, with all that is below it.
CHANGEABLE = (
    "budget",
    "checkpoint_every",
    "checkpoint_seconds",
    "diagnose_every",
    "evaluate_every",
    "keep_best",
    "keep_checkpoints",
    "mesh",
    "optimizer.learning_rate",
    "replay_log",
    "sinks",
    "step_deadline",
    "strategy.chunk_size",
    "strategy.sigma",
    "unusable_steps",
)
# What says where a run is put at first, and nothing once it is there.
PLACING = ("name", "output")
PACKAGES = (
    "eggroll-jax",
    "jax",
    "jaxlib",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "flax",
)


class Run(NamedTuple):
    """A directory that holds one run, and its settings.

    Attributes:
        path: The directory.
        config: The settings in force, all of them written out in `config.yaml`.
    """

    path: Path
    config: Config

    @property
    def algorithm(self) -> str:
        return self.config.algorithm

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def replay(self) -> Path:
        return self.path / "replay"

    @property
    def curve(self) -> Path:
        return self.path / "curve.png"


def create(config: Config) -> Run:
    """Makes the directory of a new run under the next free name.

    Raises:
        UserError: It cannot be written.
    """
    parent, name = Path(config.output), config.name or "run"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        path = _claim(parent, name)
        ignore_in_git(path)
        origin.sign(path, plain(config))
        write_settings(path, config)
    except OSError as error:
        raise UserError(
            f"output: {parent} cannot be written ({error.strerror}): choose another "
            "directory with --output"
        ) from error
    return Run(path, config)


def ignore_in_git(directory: Path) -> None:
    """Keeps a directory that a command has made, and all in it, out of commits."""
    if not (directory / ".gitignore").exists():
        (directory / ".gitignore").write_text("# Made by eggroll.\n*\n", "utf-8")


def load(path: str | Path, *, trust: bool = False) -> Run:
    """Opens an existing run; imports what its settings name.

    Args:
        path: Of its directory.
        trust: Whether that may be code of others.

    Raises:
        UserError: There is no run, or it names code and was made elsewhere.
    """
    path = Path(path)
    settings = settings_of(path)
    if not trust:
        origin.check(path, settings)
    return Run(path, loading.load(path / "config.yaml"))


def settings_of(path: Path) -> dict[str, Any]:
    """The settings of a run as plain data, of which nothing is imported.

    Raises:
        UserError: There is no run.
    """
    if not (path / "config.yaml").is_file():
        raise UserError(
            f"{path} is no run: expected a directory that `eggroll train` made, "
            "with a config.yaml"
        )
    return yamlfile.read(path / "config.yaml")


def changed(run: Run, overrides: Iterable[tuple[str, str]]) -> Run:
    """A run with another budget, or others of the settings that may change.

    Args:
        run: The run, of which nothing is written: `training.train` does, once the run
            goes on.
        overrides: As on the command line.

    Raises:
        UserError: One of them would make it another run.
    """
    config = loading.load(run.path / "config.yaml", overrides)
    for name in differences(run.config, config):
        if not may_change(name):
            raise UserError(
                f"{name} cannot change when a run is resumed, as it would be another "
                "run: start that from a config, without --resume"
            )
    return Run(run.path, config)


def change(run: Run, overrides: Iterable[tuple[str, str]]) -> Run:
    """The same, and its `config.yaml` is rewritten at once.

    Each checkpoint keeps the settings that it was made with.

    Raises:
        UserError: One of them would make it another run, or it is being trained.
    """
    run = changed(run, overrides)
    with sitting(run.path):
        write_settings(run.path, run.config)
    return run


def settle(run: Run) -> None:
    """Writes a run's settings down, if its `config.yaml` has others."""
    if differences(loading.load(run.path / "config.yaml"), run.config):
        write_settings(run.path, run.config)


def differences(before: Config, after: Config) -> Differences:
    """The settings that differ, by dotted name, each before and after (or None)."""
    old, new = flat(before), flat(after)
    return {
        name: (old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) or (name in old) != (name in new)
    }


def edited(run: Run, saved: Mapping[str, Any]) -> Differences:
    """The settings in which a run's `config.yaml` and a checkpoint differ.

    Args:
        run: As its directory has it now.
        saved: The settings that the checkpoint notes, as plain data.

    Raises:
        UserError: The checkpoint's cannot be read.
    """
    path = saved["task"]["class"]
    if path != run.config.task.path:  # and what that one names is not even looked at
        return {"task.class": (path, run.config.task.path)}
    try:
        before = loading.resolve(saved)
    except UserError as error:
        raise UserError(f"{run.path}: the settings of a checkpoint: {error}") from None
    return differences(before, run.config)


def check_edits(run: Run, saved: Mapping[str, Any]) -> list[str]:
    """What `config.yaml` says otherwise than a checkpoint, in words, to resume from it.

    Raises:
        UserError: One of the settings may not change.
    """
    found = edited(run, saved)
    for name, (before, after) in found.items():
        if not may_change(name) and name not in PLACING:
            raise UserError(
                f"{run.path / 'config.yaml'}: {name} is {after!r:.60}, and was "
                f"{before!r:.60} when the run was saved; it cannot change when a run "
                "is resumed: put it back, or start another run from a config"
            )
    return [
        f"{name} was {before!r:.60} and is {after!r:.60} from now on"
        for name, (before, after) in found.items()
    ]


def versions() -> dict[str, str]:
    """What the run's numbers depend on besides its settings."""
    packages = ((package, _version(package)) for package in PACKAGES)
    installed = {package: found for package, found in packages if found}
    return {"python": platform.python_version(), **installed}


@functools.cache  # milliseconds each
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def may_change(name: str) -> bool:
    """Whether a setting may differ when a run is resumed."""
    return any(name == one or name.startswith(f"{one}.") for one in CHANGEABLE)


def write_settings(path: Path, config: Config) -> None:
    """Writes `config.yaml`, with the versions of what is installed."""
    header = "".join(f"# {package} {one}\n" for package, one in versions().items())
    text = f"# The settings in force, with\n{header}{yamlfile.dump(plain(config))}"
    atomic.write_text(path / "config.yaml", text)


def _claim(parent: Path, name: str) -> Path:
    """Makes `name`, or the first of `name-2`, `name-3`, ... that is free."""
    number = 1
    while True:
        path = parent / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir()  # fails if another process was faster
        except FileExistsError:
            number += 1
        else:
            return path
