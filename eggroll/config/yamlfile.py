"""YAML as settings need it: one clear error, floats as people write them."""

import re
from pathlib import Path
from typing import Any

import yaml

from eggroll.errors import UserError


class Loader(yaml.SafeLoader):
    """YAML whose floats are those of version 1.2 and whose keys are unique."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is given twice", key_node.start_mark
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
    return yaml.load(text, Loader)


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
        raise UserError(f"{path}{line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no YAML: {error}") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: expected settings as `name: value`, got {content!r:.60}"
        )
    return content


def dump(content: Any) -> str:
    """The YAML text that reads back as `content`, in its own order."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
