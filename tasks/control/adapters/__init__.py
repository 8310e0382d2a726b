"""Other people's environments behind `tasks.control.environment.Environment`.

One module a library, each with a function `make(name, **options)`; a library is
imported only when one of its environments is made.
"""

import importlib
import importlib.util
from typing import Any

from eggroll import UserError
from tasks.control.environment import Environment, did_you_mean


ADAPTERS: dict[str, str] = {
    "brax": "tasks.control.adapters.brax:make",
    "craftax": "tasks.control.adapters.craftax:make",
    "gymnax": "tasks.control.adapters.gymnax:make",
    "jaxmarl": "tasks.control.adapters.jaxmarl:make",
    "jumanji": "tasks.control.adapters.jumanji:make",
    "kinetix": "tasks.control.adapters.kinetix:make",
    "mujoco_playground": "tasks.control.adapters.mujoco_playground:make",
    "navix": "tasks.control.adapters.navix:make",
    "pgx": "tasks.control.adapters.pgx:make",
}


def make(name: str, **options: Any) -> Environment:
    """Make an environment from `library/name`, or from the dotted path to a class.

    Args:
        name: for example `gymnax/CartPole-v1`, or `CartPole-v1` where one library alone
            has it; or `package.module:Class` for an environment of your own.
        **options: passed on; what there is depends on the library.

    Raises:
        UserError: if there is no such library or environment (names the nearest),
            several libraries have it, the library is not installed (says how to get
            it), or files that the library reads or downloads cannot be had.
    """
    if ":" in name:
        cls = _load(name)
        if not isinstance(cls, type) or Environment not in cls.__mro__:
            raise UserError(
                f"environment: expected a class that inherits from "
                f"tasks.control.Environment, got {name!r:.80}"
            )
        return cls(**options)
    if name and "/" not in name:
        name = _full_name(name)
    library, _, rest = name.partition("/")
    if library not in ADAPTERS or not rest:
        near = did_you_mean(library, ADAPTERS)
        known = (
            ""
            if near.startswith(" It has")
            else f" Libraries: {', '.join(sorted(ADAPTERS))}."
        )
        raise UserError(
            f"Expected an environment as library/name or package.module:Class, got "
            f"{name!r:.80}.{known}{near.replace('It has', 'Libraries')}"
        )
    try:
        return _load(ADAPTERS[library])(rest, **options)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} cannot be made: {error}") from error
    except OSError as error:  # levels of Sokoban, images of MNISTBandit
        said = " ".join(f"{error}".split())
        raise UserError(
            f"{name} needs files that its library reads or downloads, which failed: "
            f"{said:.200}. Try again where they are or there is a connection, or take "
            "another environment."
        ) from error


def _full_name(name: str) -> str:
    """The `library/name` of an environment, of the libraries that are installed."""
    known = {}
    for library, path in ADAPTERS.items():
        names = getattr(importlib.import_module(path.partition(":")[0]), "names", None)
        if names is not None and importlib.util.find_spec(library) is not None:
            known |= {f"{library}/{one}": one for one in names()}
    found = [full for full, one in known.items() if one == name]
    if len(found) > 1:
        choices = " or ".join(map(repr, found))
        raise UserError(f"Several libraries have {name!r:.80}: say {choices}.")
    if not found:
        near = did_you_mean(name, known.values())
        if near.startswith(" It has"):
            near = f" Libraries: {', '.join(sorted(ADAPTERS))}."
        raise UserError(
            "Expected an environment as library/name or package.module:Class, got "
            f"{name!r:.80}, which none of the installed libraries has.{near}"
        )
    return found[0]


def _load(path: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError, TypeError, ValueError) as error:
        is_ours = not isinstance(error, ModuleNotFoundError) or f"{module}.".startswith(
            f"{error.name}."
        )
        if not is_ours:  # found, but itself in want of something
            raise
        raise UserError(
            f"Nothing found at {path!r:.80}: {error!s:.80}. Expected "
            "package.module:Class, importable from the current directory."
        ) from error
