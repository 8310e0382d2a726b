"""Training loops as published, and the same with their gradient line changed.

A file in `tests/loops` is a loop by backprop. Comments say what a port changes:

    code
    # ES: other code    stands instead of the line above;
    # ES+ more code     is added, to make the strategy or its key.

`train()` returns the objective as it goes (lower is better), from its start to at most
`IMPROVES` times that. `problem()` returns what is differentiated: a transformation, the
function, its arguments and, if need be, `has_aux` and `argnums`.
"""

import re
import types
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from flax import nnx


ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "tests" / "loops"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
CHANGED = re.compile(r"^( *)(.+)\n *# ES: (.+)$", re.MULTILINE)
ADDED = re.compile(r"^( *)# ES\+ ", re.MULTILINE)
JIT = {
    jax.value_and_grad: jax.jit,
    nnx.value_and_grad: nnx.jit,
    eqx.filter_value_and_grad: eqx.filter_jit,
}


class Problem(NamedTuple):
    """What a loop differentiates, and by what."""

    transformation: Any
    fn: Any
    args: tuple
    has_aux: bool = False
    argnums: int | tuple[int, ...] = 0

    def jit(self, fn: Any) -> Any:
        return JIT[self.transformation](fn)

    def fresh(self) -> tuple:
        """The arguments, with modules that a call may change copied."""
        is_module = lambda x: isinstance(x, nnx.Module)
        return tuple(nnx.clone(x) if is_module(x) else x for x in self.args)


def source(name: str) -> str:
    return (FOLDER / f"{name}.py").read_text(encoding="utf-8")


def setting(name: str, which: str) -> float:
    """A constant of a loop, such as `IMPROVES = 0.1`; 0 if it has none."""
    found = re.search(rf"^{which} = ([\w.-]+)", source(name), re.MULTILINE)
    return {"True": 1.0}.get(found[1]) or float(found[1]) if found else 0.0


def changes(name: str) -> list[tuple[str, str]]:
    """The lines that a port changes: before and after."""
    return [(before, after) for _, before, after in CHANGED.findall(source(name))]


def execute(name: str, *, port: bool) -> types.ModuleType:
    """Executes a loop's file, as published or ported."""
    text = source(name)
    if port:
        text = ADDED.sub(r"\1", CHANGED.sub(r"\1\3", text))
    module = types.ModuleType(name)
    exec(compile(text, str(FOLDER / f"{name}.py"), "exec"), vars(module))
    return module


def objective(name: str, *, port: bool) -> np.ndarray:
    """What a loop's training gives, from the first step to the last."""
    with jax.enable_x64(bool(setting(name, "X64"))):
        return np.asarray([float(x) for x in execute(name, port=port).train()])


def table() -> str:
    """The loops of the documentation, one a row."""
    rows = ["| loop | lines changed | as published | evolved |", "|---|---|---|---|"]
    for name in NAMES:
        title = source(name).partition("\n")[0].strip('".')
        before, after = (
            "<br>".join(f"`{line}`" for line in side)
            for side in zip(*changes(name), strict=True)
        )
        rows.append(f"| {title} | {len(changes(name))} | {before} | {after} |")
    return "\n".join(rows) + "\n"
