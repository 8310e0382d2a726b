"""configs -> tasks -> models, eggroll; and none of them the other way round."""

import ast
import re
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent
MAY_IMPORT = {"eggroll": (), "models": (), "tasks": ("models", "eggroll")}
OURS = {*MAY_IMPORT, "configs", "tests", "benchmarks"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_only_what_is_beneath_them(package):
    allowed = {package, *MAY_IMPORT[package]}
    for path in sources(package):
        wrong = (imported(path) & OURS) - allowed
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_the_internals_of_jax_are_touched_in_one_file():
    for package in MAY_IMPORT:
        for path in sources(package):
            is_ours = path.name == "_jax.py"
            inner = re.search(r"jax\._src|jax\.interpreters", path.read_text())
            assert is_ours or not inner, f"{path.relative_to(ROOT)}: {inner}"
