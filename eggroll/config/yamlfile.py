"""YAML as settings need it: one clear error, floats as people write them."""

import re
from pathlib import Path
from typing import Any

import yaml

from eggroll.errors import UserError, brief


MOST, DEEPEST = 100_000, 50  # values of a file, and levels of one


class Loader(yaml.SafeLoader):
    """YAML whose floats are those of version 1.2 and whose keys are unique."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # of many kinds, from dates, numbers and merges
            kind = node.tag.rpartition(":")[2]
            problem = f"it cannot be read as {kind[:40]!r}: {brief(str(error))}"
            raise yaml.constructor.ConstructorError(
                None, None, problem, node.start_mark
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            problem = None
            if isinstance(key, list | dict | set):
                problem = f"a name cannot be {brief(key)}"
            elif key in seen:
                problem = f"{brief(key)} is given twice"
            if problem is not None:
                raise yaml.constructor.ConstructorError(
                    None, None, problem, key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# PyYAML takes 1e-3 for a word, as YAML 1.1 wanted 1.0e-3.
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def parse(text: str) -> Any:
    """The plain data that `text` holds; raises `yaml.YAMLError`."""
    try:
        content = yaml.load(text, Loader)
    except RecursionError:
        raise yaml.YAMLError(f"it is nested more than {DEEPEST} deep") from None
    _check_size(content)
    return content


def _check_size(content: Any) -> None:
    """Refuses what aliases made endless, or so large that nobody wrote it."""
    level, count = [content], 0
    for _ in range(DEEPEST):
        below = []
        for one in level:
            if isinstance(one, dict):
                below += one.values()
            elif isinstance(one, list | tuple | set):
                below += one
            if count + len(below) > MOST:
                raise yaml.YAMLError(f"it holds more than {MOST:,} values")
        level, count = below, count + len(below)
        if not level:
            return
    raise yaml.YAMLError(f"it is nested more than {DEEPEST} deep, or within itself")


def read(path: str | Path) -> dict[str, Any]:
    """The settings that a YAML file holds.

    Raises:
        UserError: No such file, not YAML (with the line), or not `name: value`.
    """
    try:
        content = parse(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no file {str(path)!r}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = str(error.problem)[:200]
        raise UserError(f"{path}{line}: {problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no YAML: {str(error)[:200]}") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: expected settings as `name: value`, got {brief(content)}"
        )
    return content


def dump(content: Any) -> str:
    """The YAML text that reads back as `content`, in its own order."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
