"""Whose code a run names: that of others is imported when the user says so, only.

A config is code: it names classes and functions that are imported and called. Runs are
handed on, so that looking at one must not mean to run what it names. Whoever makes a
run signs the names in it, with a key of their own that stays on their machine; what
this package and its clone ship needs no signature.
"""

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eggroll.errors import UserError


NAME = ".origin"
SHIPPED = ("eggroll", "models", "optax", "tasks")
# What stands before a colon and names no module.
SOURCES = ("huggingface", "reasoning_gym")
DOTTED = re.compile(r"([A-Za-z_]\w*)(\.\w+)*:[A-Za-z_][\w./-]*")


def names_of(settings: Any) -> list[str]:
    """The code that plain settings name, such as `package.module:Class`, but ours."""
    return sorted(set(_names(settings)))


def sign(directory: Path, settings: Any) -> None:
    """Notes in a run's directory that its names are this user's, if possible."""
    if not names_of(settings):
        return
    # Of a home that cannot be written, the user is asked later.
    with contextlib.suppress(OSError):
        signature = _signature(_key(), settings)
        (directory / NAME).write_text(signature, encoding="utf-8")


def check(directory: Path, settings: Any) -> None:
    """Refuses a run that names code, unless this user has made it here.

    Raises:
        UserError: It does.
    """
    names = names_of(settings)
    if not names:
        return
    with contextlib.suppress(OSError, ValueError, TypeError):  # none, or none of ours
        signed = (directory / NAME).read_text(encoding="utf-8")
        if hmac.compare_digest(signed, _signature(_key(), settings)):
            return
    some = ", ".join(name[:80] for name in names[:3])
    raise UserError(
        f"{directory} names code that would be run ({some}), and was not made here: if "
        "you trust it, add --trust"
    )


def _names(settings: Any) -> Iterator[str]:
    if isinstance(settings, str):
        found = DOTTED.fullmatch(settings)
        if found and found[1] not in (*SHIPPED, *SOURCES):
            yield settings
    elif isinstance(settings, Mapping):
        for one in settings.values():
            yield from _names(one)
    elif isinstance(settings, list | tuple):
        for one in settings:
            yield from _names(one)


def _signature(key: bytes, settings: Any) -> str:
    names = json.dumps(names_of(settings)).encode()
    return hmac.new(key, names, hashlib.sha256).hexdigest()


def _key() -> bytes:
    """The key of this user on this machine, made when it is wanted first."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(base) / "eggroll" / "key"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(32))
    return path.read_bytes()
