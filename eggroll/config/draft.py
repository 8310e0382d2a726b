"""Settings on their way to a `Config`: found by name and set one by one."""

import contextlib
import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

from eggroll.config import coercion, lookup
from eggroll.config.bounds import bare
from eggroll.config.coercion import Typed
from eggroll.config.pieces import Choice, Schedule
from eggroll.config.schema import Config, OptimizerConfig, TaskConfig
from eggroll.errors import UserError, brief


# The setting that a plain word or number in place of several stands for.
HEADWORDS = {
    TaskConfig: "class",
    OptimizerConfig: "name",
    Choice: "name",
    Schedule: "start",
}
# What names settings of its own: with another value, there are others.
NAMING = ("task", "task.class", "optimizer", "optimizer.name")


class Draft:
    """Settings that are found by name, and not yet typed.

    Attributes:
        tree: What is set so far, as plain data of a `Config`.
        kinds: The type of each setting there is, by dotted name.
    """

    def __init__(self, tree: dict[str, Any], kinds: dict[str, Any] | None = None):
        """Takes the tree, and what is already known of the types of its settings."""
        self.tree = tree
        self.kinds = _setting_types(tree) if kinds is None else kinds

    def full_name(self, name: str) -> str:
        """The dotted name that `name`, perhaps its last part only, stands for.

        Raises:
            UserError: There is none, or there are several.
        """
        if name in self.kinds:
            return name
        matches = [one for one in self.kinds if one.endswith(f".{name}")]
        if len(matches) > 1:
            raise UserError(
                f"{name!r} may mean {' or '.join(map(repr, matches))}: write it out"
            )
        if not matches:
            short = {one.rsplit(".", 1)[-1] for one in self.kinds}
            known = self.kinds if "." in name else short
            raise coercion.unknown("setting", name, known)
        return matches[0]

    def set(self, name: str, value: Any) -> str:
        """Sets one setting, and returns its dotted name.

        Args:
            name: Dotted, or its last part where no other setting shares it.
            value: Plain data, or `Typed`.
        """
        name = self.full_name(name)
        if _groups(self.kinds[name]):
            value = _opened(value)
        *parents, last = name.split(".")
        node = self._inside(parents)
        if self.kinds[name] in (TaskConfig, OptimizerConfig):
            value = _kept(node.get(last), value, HEADWORDS[self.kinds[name]])
        node[last] = value
        if name in NAMING:
            self.kinds = _setting_types(self.tree)
        return name

    def _inside(self, parents: list[str]) -> dict[str, Any]:
        """The mapping that holds what is below `parents`, made where there is none."""
        node = self.tree
        for depth, parent in enumerate(parents, 1):
            below = node.get(parent)
            if not isinstance(below, dict):
                below = self._spelt_out(below, ".".join(parents[:depth]))
            node[parent] = node = below
        return node

    def _spelt_out(self, value: Any, name: str) -> dict[str, Any]:
        """The settings for which a plain word or number stands, or nothing."""
        kind = bare(self.kinds[name])
        if value is None:
            return {}
        if kind not in HEADWORDS:
            raise UserError(
                f"{name}: expected its settings by name, got {brief(value)}"
            )
        return {HEADWORDS[kind]: value}


def _setting_types(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The settings there are for the task and the optimiser in `tree`, by dotted name.

    Args:
        tree: Plain data of a `Config`, perhaps not all of it.
    """
    kinds = {**_nested_types(Config), "task.class": str}
    path = _headword(tree.get("task"), TaskConfig)
    if isinstance(path, str):
        own = _nested_types(lookup.locate_dataclass(path))
        kinds |= {f"task.{name}": kind for name, kind in own.items()}
    name = _headword(tree.get("optimizer", {}), OptimizerConfig, OptimizerConfig.name)
    if isinstance(name, str):
        with contextlib.suppress(UserError):  # of an unknown one, in time
            function = OptimizerConfig(name=name).function()
            for option in inspect.signature(function).parameters:
                kinds.setdefault(f"optimizer.{option}", Any)
    return kinds


def _groups(kind: Any) -> list[type]:
    """The dataclasses that a setting of this type may be: those have settings below."""
    kind = bare(kind)
    is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return [
        one
        for one in (typing.get_args(kind) if is_union else (kind,))
        if dataclasses.is_dataclass(one) and isinstance(one, type)
    ]


def _headword(value: Any, cls: type, default: Any = None) -> Any:
    """What names a task or an optimiser that stands alone or with its options."""
    if isinstance(value, Mapping):
        return value.get(HEADWORDS[cls], default)
    return value


def _nested_types(cls: type) -> dict[str, Any]:
    kinds = {}
    for name, kind in coercion.annotations(cls).items():
        if name == "options" and cls in HEADWORDS:
            continue  # written beside the name, not below `options`
        kinds[name] = kind
        for one in _groups(kind):
            own = {} if one is TaskConfig else _nested_types(one)
            kinds |= {f"{name}.{below}": value for below, value in own.items()}
    return kinds


def _opened(value: Any) -> Any:
    """Several settings that were typed as one mapping, as that mapping."""
    content = value.read() if isinstance(value, Typed) else None
    return content if isinstance(content, dict) else value


def _kept(before: Any, value: Any, headword: str) -> Any:
    """Another task or optimiser with the settings of the one before.

    It keeps the learning rate, for one.
    """
    if isinstance(value, Mapping):
        return value
    return {**(before if isinstance(before, dict) else {}), headword: value}
