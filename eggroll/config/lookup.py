"""Things that settings name: classes by dotted path, functions with their options."""

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from eggroll.config.coercion import unknown
from eggroll.errors import UserError, brief


def locate(path: str) -> Any:
    """What a dotted path such as `tasks.control:Control` names.

    Raises:
        UserError: There is no such module or name, or a package it needs is missing.
    """
    module_name, colon, name = path.partition(":")
    parts = [*module_name.split("."), name]
    if not (colon and all(part.isidentifier() for part in parts)):
        raise UserError(
            f"expected a path like 'tasks.control:Control', got {brief(path)}: "
            "name the module, a colon, and what is in it"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name == missing or module_name.startswith(f"{missing}."):
            raise UserError(
                f"there is no module {missing!r}: run from the clone that holds it, "
                "or install it"
            ) from None
        raise UserError(
            f"{path} needs the package {missing!r}: install it, or the extra of "
            "eggroll that brings it, such as 'eggroll-jax[rl]'"
        ) from error
    if not hasattr(module, name):
        own = [
            one
            for one, value in vars(module).items()
            if inspect.isclass(value) and value.__module__.startswith(module_name)
        ]
        raise unknown(f"class in {module_name}", name, own)
    return getattr(module, name)


def locate_dataclass(path: str) -> type:
    """The dataclass that a dotted path names; its fields are settings."""
    cls = locate(path)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise UserError(
            f"{path}: expected a dataclass, whose fields are settings, got {brief(cls)}"
        )
    return cls


def locate_function(module: Any, what: str, name: str) -> Callable:
    """The public function `name` of `module`; `what` it is, for the message."""
    function = getattr(module, name, None)
    if name.startswith("_") or not inspect.isfunction(function):
        public = [
            one
            for one, value in vars(module).items()
            if inspect.isfunction(value) and not one.startswith("_")
        ]
        raise unknown(what, name, public)
    return function


def check_options(where: str, function: Callable, options: Mapping[str, Any]) -> None:
    """Refuses keyword arguments that `function` does not take.

    Args:
        where: The dotted name of the settings that hold the options.
        function: What will be called.
        options: Its keyword arguments.

    Raises:
        UserError: One of them is unknown, or a number was expected.
    """
    parameters = inspect.signature(function).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return
    for name, value in options.items():
        if name not in parameters:
            known = [f"{where}.{one}" for one in parameters]
            raise unknown("setting", f"{where}.{name}", known)
        default = parameters[name].default
        is_numeric = isinstance(default, int | float)
        if is_numeric and not isinstance(value, int | float):
            raise UserError(
                f"{where}.{name}: expected a number, as its default {default}, "
                f"got {brief(value)}"
            )
