"""Plain data (what YAML holds) to annotated types, with errors that name the place.

Understands what settings are made of: `bool`, `int`, `float`, `str`, `None`, `Literal`,
unions, tuples, lists, mappings and dataclasses of these. A dataclass may define
`parse(value, where)` to read a shorter form, such as a number in place of a schedule.
"""

import collections.abc
import contextlib
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union

import yaml

from eggroll.config import yamlfile
from eggroll.config.bounds import bare, bounds_of
from eggroll.errors import UserError, brief


LONGEST = 80  # of a name that is told in a message


class Typed(str):
    """A value as typed on a command line, to be read where its type is known."""

    def read(self) -> Any:
        """The YAML that it spells, or itself where it is none."""
        try:
            return yamlfile.parse(self)
        except yaml.YAMLError:
            return str(self)


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist, with the nearest that does.

    Args:
        what: What kind of thing was named, such as "setting".
        name: The name that was given.
        known: The names that exist.
    """
    known, name = sorted(known), name[:LONGEST]
    # `rate` is no misspelling of `learning_rate`, but means it.
    near = [one for one in known if name in one.rsplit(".", 1)[-1].split("_")]
    near = near or difflib.get_close_matches(name, known, n=1)
    if near:
        hint = f"did you mean {near[0]!r}?"
    elif len(hint := f"there is: {', '.join(known)}") > 300:
        hint = f"{hint[:300].rpartition(',')[0]} and others, {len(known)} in all"
    return UserError(f"there is no {what} {name!r}: {hint}")


def describe(annotation: Any) -> str:
    """An annotation as a user would write it: `float`, `int | None`, `'a' | 'b'`."""
    annotation = bare(annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin in (Union, types.UnionType):
        return " or ".join(describe(one) for one in arguments)
    if origin is Literal:
        return " or ".join(repr(one) for one in arguments)
    if origin is tuple and arguments[-1:] == (...,):
        return f"a list of {describe(arguments[0])}"
    if origin is not None:
        return str(annotation).replace("typing.", "").replace("collections.abc.", "")
    return getattr(annotation, "__name__", str(annotation))


def coerce(value: Any, annotation: Any, where: str) -> Any:
    """`value` as the annotated type.

    Args:
        value: Plain data, or `Typed`.
        annotation: What it should be.
        where: The setting's dotted name, for the message.

    Raises:
        UserError: The value does not fit.
    """
    if isinstance(value, Typed):
        return _coerce_typed(value, annotation, where)
    if (bounds := bounds_of(annotation)) is not None:
        coerced = coerce(value, bare(annotation), where)
        bounds.check(coerced, where)
        return coerced
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        return _coerce_union(value, arguments, annotation, where)
    if origin is Literal:
        if any(value == one and type(value) is type(one) for one in arguments):
            return value
        raise _mismatch(value, annotation, where)
    if origin in (tuple, list, collections.abc.Sequence):
        return _coerce_sequence(value, annotation, where)
    if origin in (dict, collections.abc.Mapping):
        if not isinstance(value, Mapping):
            raise _mismatch(value, annotation, where)
        return {
            coerce(name, arguments[0], f"{where} (a name)"): coerce(
                one, arguments[1], f"{where}.{name}"
            )
            for name, one in value.items()
        }
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        if isinstance(value, annotation):
            return value
        parse = getattr(annotation, "parse", None)
        return parse(value, where) if parse else from_mapping(annotation, value, where)
    return _coerce_scalar(value, annotation, where)


def from_mapping(cls: type, value: Any, where: str = "", **ready: Any) -> Any:
    """A dataclass from a mapping of its fields.

    Args:
        cls: The dataclass.
        value: Field names to plain data.
        where: The dotted name of what is being read; empty at the top.
        **ready: Fields whose value needs no conversion.
    """
    fields = {**fields_of(cls, value, where), **ready}
    missing = [
        field.name
        for field in dataclasses.fields(cls)
        if field.init
        and field.name not in fields
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"the setting {_join(where, missing[0])!r} is missing")
    return cls(**fields)


def fields_of(cls: type, value: Any, where: str) -> dict[str, Any]:
    """Those fields of a dataclass that a mapping gives, each as its type."""
    if not isinstance(value, Mapping):
        raise _mismatch(value, cls, where)
    kinds = annotations(cls)
    for name in value:
        if name not in kinds:
            known = [_join(where, one) for one in kinds]
            raise unknown("setting", _join(where, str(name)), known)
    return {
        name: coerce(one, kinds[name], _join(where, name))
        for name, one in value.items()
    }


def annotations(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields, by name."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init
    }


def _coerce_typed(value: Typed, annotation: Any, where: str) -> Any:
    try:
        return coerce(value.read(), annotation, where)
    except UserError:
        if annotation in (Any, object):
            raise  # any word would do
        with contextlib.suppress(UserError):
            return coerce(str(value), annotation, where)  # a run may be called 7
        raise


def _coerce_scalar(value: Any, annotation: Any, where: str) -> Any:
    if annotation in (Any, object):
        return _checked(value, where)
    if annotation is type(None) and value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if annotation in (int, float) and is_number:
        _checked(value, where)
    if annotation is float and is_number:
        return float(value)
    if annotation is int and is_number and int(value) == value:
        return int(value)  # so that 1e6 may stand for a million
    if annotation in (int, float) or not isinstance(annotation, type):
        raise _mismatch(value, annotation, where)
    if isinstance(value, annotation):
        return value
    raise _mismatch(value, annotation, where)


def _checked(value: Any, where: str) -> Any:
    """The value itself, if all the numbers in it are such as can be computed with."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            _checked(one, f"{where}.{name}")
    elif isinstance(value, list | tuple):
        for i, one in enumerate(value):
            _checked(one, f"{where}[{i}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: expected a finite number, got {value}")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        digits = f"one of {value.bit_length()} bits"
        raise UserError(f"{where}: expected a number within 64 bits, got {digits}")
    return value


def _coerce_union(value: Any, options: tuple, annotation: Any, where: str) -> Any:
    _checked(value, where)
    # An exact fit wins over a conversion: 1 stays an integer in `float | int`.
    for one in sorted(options, key=lambda one: type(value) is not one):
        try:
            return coerce(value, one, where)
        except UserError as error:
            if isinstance(value, Mapping) and dataclasses.is_dataclass(one):
                raise error  # this one was meant: it says what is wrong
    raise _mismatch(value, annotation, where)


def _coerce_sequence(value: Any, annotation: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if not isinstance(value, list | tuple):
        raise _mismatch(value, annotation, where)
    if origin is tuple and arguments[-1:] != (...,):
        if len(value) != len(arguments):
            raise _mismatch(value, annotation, where)
        kinds = arguments
    else:
        kinds = (arguments[0],) * len(value)
    items = [
        coerce(one, kind, f"{where}[{i}]")
        for i, (one, kind) in enumerate(zip(value, kinds, strict=True))
    ]
    return items if origin is list else tuple(items)


def _mismatch(value: Any, annotation: Any, where: str) -> UserError:
    got = "null" if value is None else f"{brief(value)} ({type(value).__name__})"
    expected, where = describe(annotation), where[-LONGEST:] or "the settings"
    return UserError(f"{where}: expected {expected}, got {got}")


def _join(where: str, name: str) -> str:
    name = name[:LONGEST]
    return f"{where}.{name}" if where else name
