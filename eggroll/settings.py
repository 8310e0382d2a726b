"""From a YAML file and the command line to a checked `Config`."""

import contextlib
import dataclasses
import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import optax
import yaml

from eggroll import named, space as spaces, typed, yamlfile
from eggroll.config import Choice, Config, OptimizerConfig, Schedule, TaskConfig, plain
from eggroll.errors import UserError
from eggroll.space import Space


# The setting that a plain word or number in place of several stands for.
HEADWORDS = {
    TaskConfig: "class",
    OptimizerConfig: "name",
    Choice: "name",
    Schedule: "start",
}
PLAIN = (bool, int, float, str, tuple, type(None))


def load(
    path: str | Path, overrides: Iterable[tuple[str, str]] = (), **defaults: Any
) -> Config:
    """Reads a run's settings.

    Args:
        path: A YAML file. Its section `algorithms` holds, by algorithm, settings that
            apply when that one is chosen; its section `sweep` holds what
            `eggroll sweep` searches, and is no more than checked here.
        overrides: Names (short where unique, or dotted) and values as typed on a
            command line; a later one wins.
        **defaults: Settings that neither file nor command line gives.

    Raises:
        UserError: The file cannot be read, or a setting is unknown or of the wrong
            type.
    """
    return load_sweep(path, overrides, **defaults)[0]


def load_sweep(
    path: str | Path, overrides: Iterable[tuple[str, str]] = (), **defaults: Any
) -> tuple[Config, Space]:
    """Reads a run's settings, and what a sweep would search, by dotted names.

    What is given in `overrides` is not searched.
    """
    overrides = [(name.replace("-", "_"), text) for name, text in overrides]
    try:
        tree = {**defaults, **yamlfile.read(path)}
        space = _space(tree.pop("sweep", {}), tree)
        chosen = dict(overrides).get("algorithm", tree.get("algorithm", "eggroll"))
        kind = dict[str, dict[str, Any]]
        variants = typed.coerce(tree.pop("algorithms", {}), kind, "algorithms")
        for name, value in variants.get(chosen, {}).items():
            override(tree, name, value)
        if not overrides:
            return resolve(tree), space
    except UserError as error:
        source = "" if str(path) in str(error) else f"{path}: "
        raise UserError(f"{source}{error}") from error
    for name, text in overrides:
        override(tree, name, text, is_text=True)
    given = {full_name(name, setting_types(tree)) for name, _ in overrides}
    return resolve(tree), {name: space[name] for name in space if name not in given}


def resolve(tree: Mapping[str, Any]) -> Config:
    """Checks plain data against `Config` and against what it names."""
    config = typed.from_mapping(Config, tree)
    cls = named.locate_dataclass(config.task.path)
    kinds = typed.annotations(cls)
    options = {
        field.name: field.default
        for field in dataclasses.fields(cls)
        if field.name in kinds and isinstance(field.default, PLAIN)
    }
    for name, value in config.task.options.items():
        if name not in kinds:
            known = [f"task.{one}" for one in kinds]
            raise typed.unknown("setting", f"task.{name}", known)
        options[name] = typed.coerce(value, kinds[name], f"task.{name}")
    optimizer = named.locate_function(
        optax, "optimiser in optax", config.optimizer.name
    )
    named.check_options("optimizer", optimizer, config.optimizer.options)
    task = TaskConfig(path=config.task.path, options=options)
    return dataclasses.replace(config, task=task)


def override(
    tree: dict[str, Any], name: str, value: Any, *, is_text: bool = False
) -> None:
    """Sets one setting of `tree`, plain data of a `Config`, in place.

    Args:
        tree: The settings so far.
        name: Dotted, or its last part where no other setting shares it.
        value: The new value.
        is_text: `value` was typed on a command line: it is read as YAML, or taken as it
            is where a word is expected and that is none.
    """
    kinds = setting_types(tree)
    name = full_name(name, kinds)
    if is_text:
        value = _read_text(value, kinds[name], name)
    node, where = tree, []
    *parents, last = name.split(".")
    for parent in parents:
        where.append(parent)
        below = node.setdefault(parent, {})
        if not isinstance(below, dict):
            below = {HEADWORDS[kinds[".".join(where)]]: below}
        node[parent] = node = below
    if kinds[name] in (TaskConfig, OptimizerConfig) and not isinstance(value, Mapping):
        rest = node.get(last)
        # The other settings stay: another optimiser keeps the learning rate.
        rest = rest if isinstance(rest, dict) else {}
        value = {**rest, HEADWORDS[kinds[name]]: value}
    node[last] = value


def flat(config: Config) -> dict[str, Any]:
    """The settings of a run by their dotted names."""

    def leaves(node: Any, where: str) -> dict[str, Any]:
        if not isinstance(node, Mapping):
            return {where: node}
        found = {}
        for name, value in node.items():
            found |= leaves(value, f"{where}.{name}" if where else str(name))
        return found

    return leaves(plain(config), "")


def setting_types(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The dotted names and types of the settings there are, for the task in `tree`."""
    kinds = _nested_types(Config)
    kinds["task.class"] = str
    task, optimizer = tree.get("task"), tree.get("optimizer", "adam")
    path = task.get("class") if isinstance(task, Mapping) else task
    name = (
        optimizer.get("name", "adam") if isinstance(optimizer, Mapping) else optimizer
    )
    if isinstance(path, str):
        own = _nested_types(named.locate_dataclass(path))
        kinds |= {f"task.{name}": kind for name, kind in own.items()}
    if isinstance(name, str) and callable(function := getattr(optax, name, None)):
        for option in inspect.signature(function).parameters:
            kinds.setdefault(f"optimizer.{option}", Any)
    return kinds


def _space(section: Any, tree: Mapping[str, Any]) -> Space:
    """Checks the section `sweep` against the settings there are."""
    if not isinstance(section, Mapping):
        raise UserError(f"sweep: expected settings with choices, got {section!r}")
    kinds, space = setting_types(tree) if section else {}, {}
    for short, value in section.items():
        name = full_name(str(short), kinds)
        if name in space:
            raise UserError(f"sweep: {name!r} is given twice, once as {short!r}")
        if name in ("seed", "name", "output"):
            raise UserError(f"sweep: {name!r} cannot be searched: each run has its own")
        space[name] = spaces.parse(value, kinds[name], f"sweep.{short}")
        if kinds[name] is OptimizerConfig:
            for choice in space[name]:
                chosen = OptimizerConfig.parse(choice, f"sweep.{short}").name
                named.locate_function(optax, "optimiser in optax", chosen)
    return space


def _nested_types(cls: type) -> dict[str, Any]:
    kinds = {}
    for name, kind in typed.annotations(cls).items():
        if name == "options" and cls in HEADWORDS:
            continue  # written beside the name, not below `options`
        kinds[name] = kind
        options = typing.get_args(kind) if _is_union(kind) else (kind,)
        for one in options:
            if dataclasses.is_dataclass(one) and isinstance(one, type):
                own = {} if one is TaskConfig else _nested_types(one)
                kinds |= {f"{name}.{below}": value for below, value in own.items()}
    return kinds


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def full_name(name: str, known: Iterable[str]) -> str:
    """The dotted name that `name`, perhaps its last part only, stands for.

    Raises:
        UserError: There is none, or there are several.
    """
    known = list(known)
    if name in known:
        return name
    matches = [one for one in known if one.endswith(f".{name}")]
    if len(matches) > 1:
        raise UserError(
            f"{name!r} may mean {' or '.join(map(repr, matches))}: write it out"
        )
    if not matches:
        short = [one.rsplit(".", 1)[-1] for one in known]
        raise typed.unknown("setting", name, known if "." in name else set(short))
    return matches[0]


def _read_text(text: str, kind: Any, name: str) -> Any:
    try:
        value = yamlfile.parse(text)
    except yaml.YAMLError:
        value = text
    try:
        typed.coerce(value, kind, name)
    except UserError as error:
        with contextlib.suppress(UserError):
            typed.coerce(text, kind, name)  # a run may be called 7
            return text
        raise error from None
    return value
