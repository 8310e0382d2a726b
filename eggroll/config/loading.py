"""From a YAML file and the command line to a checked `Config`."""

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from eggroll.config import coercion, lookup, search_space, yamlfile
from eggroll.config.coercion import Typed
from eggroll.config.draft import Draft
from eggroll.config.schema import ALGORITHMS, Config, plain
from eggroll.config.search_space import Space
from eggroll.errors import UserError, brief


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
    typed = [(name.replace("-", "_"), Typed(text)) for name, text in overrides]
    with _blaming(path):
        tree = {**defaults, **yamlfile.read(path)}
        section, variants = tree.pop("sweep", {}), tree.pop("algorithms", {})
        draft = Draft(tree)
        _check_variants(variants, draft)
        space = _space(section, draft)
        algorithm = {"algorithm": "eggroll", **tree, **dict(typed)}["algorithm"]
        for name, value in _variant(variants, str(algorithm)).items():
            draft.set(name, value)
        if not typed:
            return resolve(tree), space
    given = {draft.set(name, value) for name, value in typed}
    return resolve(tree), {name: space[name] for name in space if name not in given}


def resolve(tree: Mapping[str, Any]) -> Config:
    """Checks plain data against `Config` and against what it names."""
    return coercion.from_mapping(Config, tree)


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
    Draft(tree).set(name, Typed(value) if is_text else value)


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


def _variant(section: Any, algorithm: str) -> dict[str, Any]:
    """Those settings of the section `algorithms` that apply to one of them."""
    kind = dict[str, dict[str, Any]]
    return coercion.coerce(section, kind, "algorithms").get(algorithm, {})


def _check_variants(section: Any, draft: Draft) -> None:
    """Refuses mistakes in the settings of any algorithm, chosen or not."""
    path = draft.tree.get("task")
    path = path.get("class") if isinstance(path, Mapping) else path
    if not section or not isinstance(path, str):
        return  # of which resolving tells
    own = getattr(lookup.locate_dataclass(path), "algorithms", {})
    for algorithm in coercion.coerce(section, dict[str, Any], "algorithms"):
        if algorithm not in (*ALGORITHMS, *own):
            raise coercion.unknown("algorithm", algorithm, (*ALGORITHMS, *own))
        other = Draft(copy.deepcopy(draft.tree), draft.kinds)
        for name, value in _variant(section, algorithm).items():
            full = other.set(name, value)
            coercion.coerce(value, other.kinds[full], f"algorithms.{algorithm}.{full}")


def kinds(config: Config) -> dict[str, Any]:
    """The types of all settings of a run, by dotted name."""
    return Draft(plain(config)).kinds


def _space(section: Any, draft: Draft) -> Space:
    """Checks the section `sweep` against the settings there are."""
    if not isinstance(section, Mapping):
        raise UserError(f"sweep: expected settings with choices, got {brief(section)}")
    space = {}
    for short, value in section.items():
        name = draft.full_name(str(short))
        if name in space:
            raise UserError(f"sweep: {name!r} is given twice, once as {short!r}")
        if name in ("seed", "name", "output"):
            raise UserError(f"sweep: {name!r} cannot be searched: each run has its own")
        space[name] = search_space.parse(value, draft.kinds[name], f"sweep.{short}")
    return space


@contextlib.contextmanager
def _blaming(path: str | Path) -> Iterator[None]:
    """Says in which file a mistake is."""
    try:
        yield
    except UserError as error:
        source = "" if str(path) in str(error) else f"{path}: "
        raise UserError(f"{source}{error}") from error
