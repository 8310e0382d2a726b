"""Scripts by which a shell completes commands, options, and names of settings."""

import argparse
import dataclasses
import typing
from collections.abc import Callable, Iterator
from typing import Any

from eggroll.cli.saying import say
from eggroll.cli.texts import COMPLETION_HELP
from eggroll.errors import UserError


SHELLS = ("bash", "zsh", "tcsh")


def describe(
    command: Callable[..., argparse.ArgumentParser],
    parser: argparse.ArgumentParser,
    settings: tuple[str, ...],
) -> None:
    """Adds the command that prints one."""

    def run(options: argparse.Namespace, _: Any) -> int:
        say(script(parser, options.shell, settings))
        return 0

    about = "print a script by which a shell completes commands"
    made = command("completion", run, about, epilog=COMPLETION_HELP)
    made.add_argument("shell", choices=SHELLS)


def script(
    parser: argparse.ArgumentParser, shell: str, settings: tuple[str, ...]
) -> str:
    """The script of a shell, which runs no Python when it completes.

    Args:
        parser: of the command line.
        shell: one of `SHELLS`.
        settings: the commands that take those of a config, too.

    Raises:
        UserError: the package that writes it is not there.
    """
    try:
        import shtab
    except ModuleNotFoundError:
        raise UserError(
            "shtab is not installed: pip install 'eggroll-jax[completion]'"
        ) from None
    completed = {"config": shtab.FILE, "directory": shtab.DIRECTORY}
    completed |= {"directories": shtab.DIRECTORY, "resume": shtab.DIRECTORY}
    for name, command in _commands(parser).items():
        if name in settings:
            _add_settings(command)
        for action in command._actions:
            if action.dest in completed:
                action.complete = completed[action.dest]  # pyrefly: ignore[missing-attribute]
    return shtab.complete(parser, shell)


def _add_settings(command: argparse.ArgumentParser) -> None:
    from eggroll.config import Config

    known = command._option_string_actions
    for name in dict.fromkeys(_names(Config)):
        option = f"--{name.replace('_', '-')}"
        if option not in known:
            command.add_argument(option, metavar="VALUE", help="a setting")


def _names(cls: type) -> Iterator[str]:
    """The last names of the settings that every run has."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        if isinstance(kind, type) and kind.__name__.endswith("Config"):
            yield from _names(kind)
        else:
            yield field.name


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    kind = argparse._SubParsersAction
    found = next(one for one in parser._actions if isinstance(one, kind))
    return dict(found.choices)
