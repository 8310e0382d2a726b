"""What stands where, and who may know whom; import-linter holds the rooms in order."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from eggroll.cli.main import EXTRA


ROOT = Path(__file__).parent.parent
MAY_IMPORT = {"eggroll": (), "models": (), "tasks": ("models", "eggroll")}
OURS = {*MAY_IMPORT, "configs", "tests", "benchmarks"}
MACHINERY = ("cli", "config", "runs", "sweep", "training")
ROOMS = (*MACHINERY, "adapters", "evolution", "integer", "perturbation", "task")
FACES = ["eggroll", *(f"eggroll.{room}" for room in ROOMS)]
# What differs, or may, from one JAX to the next.
INTERNALS = r"jax\._src|jax\.interpreters|get_bind_params|ft_in|num_consts|num_carry"
LONGEST_FILE, LONGEST_FUNCTION = 300, 60


def sources(package: str) -> list[Path]:
    """The files of a package, of which there must be some."""
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"there is nothing to look at in {ROOT / package}"
    return found


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


def printed(program: str) -> list[str]:
    """What a fresh Python prints, in words."""
    words = [sys.executable, "-c", program]
    run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout.split()


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_only_what_is_beneath_them(package):
    allowed = {package, *MAY_IMPORT[package]}
    for path in sources(package):
        wrong = (imported(path) & OURS) - allowed
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_the_internals_of_jax_are_touched_in_one_file():
    touching = {
        path.relative_to(ROOT).as_posix()
        for package in MAY_IMPORT
        for path in sources(package)
        if re.search(INTERNALS, path.read_text(encoding="utf-8"))
    }
    assert touching == {"eggroll/perturbation/jaxprs.py"}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_file_is_one_idea_and_a_function_fits_a_screen(package):
    too_long = set()
    for path in sources(package):
        name = path.relative_to(ROOT).as_posix()
        if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST_FILE:
            too_long.add(name)
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    too_long.add(f"{name}: {node.name}")
    assert not too_long


def test_every_room_is_looked_at():
    found = {path.parent.name for path in sources("eggroll")} - {"eggroll"}
    assert found == set(ROOMS)


@pytest.mark.parametrize("name", FACES)
def test_no_name_of_a_face_hides_a_module(name):
    face = importlib.import_module(name)
    modules = {one.name for one in pkgutil.iter_modules(face.__path__)}
    for one in modules & {*getattr(face, "__all__", ()), *vars(face)}:
        assert isinstance(getattr(face, one), ModuleType), f"{name}.{one}"


@pytest.mark.parametrize("name", FACES)
def test_a_face_has_what_it_promises_and_fits_a_screen(name):
    face = importlib.import_module(name)
    promised = getattr(face, "__all__", ())
    assert [one for one in promised if not hasattr(face, one)] == []
    assert len(Path(str(face.__file__)).read_text().splitlines()) <= 74


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout")
def test_no_source_is_ignored():
    # A pattern of .gitignore takes files out of clones and, at once, of the wheel.
    for which in ("--cached", "--others"):
        words = ["git", "ls-files", which, "--ignored", "--exclude-standard"]
        words += ["--", *(f"{folder}/**.py" for folder in sorted(OURS))]
        found = subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
        assert found.stdout.decode() == ""


def test_an_optimiser_loads_nothing_of_the_machinery():
    loaded = set(printed("import sys, eggroll; print(*sys.modules)"))
    assert {"eggroll.evolution", "eggroll.integer", "optax"} <= loaded
    assert loaded & {*EXTRA, *(f"eggroll.{room}" for room in MACHINERY)} == set()


def test_the_import_loads_little_more_than_that_of_optax():
    ours, theirs = (
        set(printed(f"import sys, {package}; print(*sys.modules)"))
        for package in ("eggroll", "optax")
    )
    assert len(ours - theirs) <= 140


@pytest.mark.slow  # beside other tests, and on a slow processor, it takes longer
def test_the_import_costs_little_more_than_that_of_optax():
    def seconds(package: str) -> float:
        # Of the processor, which other work on the machine does not prolong much.
        program = f"import time, {package}; print(time.process_time())"
        return float(printed(program)[0])

    turns = [(seconds("eggroll"), seconds("optax")) for _ in range(8)]
    ours, theirs = map(min, zip(*turns, strict=True))
    assert ours <= theirs + 0.3
