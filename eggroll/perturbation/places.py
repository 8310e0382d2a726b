"""Where in a user's function an operation stands."""

import contextlib
import functools
import pathlib
from collections.abc import Iterator, Sequence

import jax
from jax.extend.core import JaxprEqn


# The frames of a traceback that say nothing of where a user's function is. (JAX wraps
# functions of its own by Python's means.)
_OURS = (
    contextlib.__file__,
    functools.__file__,
    *(
        f"{folder}/"
        for folder in (
            pathlib.Path(jax.__file__).parent,
            pathlib.Path(jax.__file__).parent.with_name("jaxlib"),
            pathlib.Path(__file__).parent.parent,
        )
    ),
)


def line_of(calls: Sequence[JaxprEqn]) -> str:
    """Returns where the user wrote an operation, such as "model.py:12", if known.

    JAX traces its own functions (`jnp.where`) once, whoever calls them: what such a
    function does is found where it is called.

    Args:
        calls: the operation's equation, behind those of the calls and loops around it.
    """
    return next((line for eqn in reversed(calls) for line in _lines(eqn)), "")


def _lines(eqn: JaxprEqn) -> Iterator[str]:
    """The lines of an equation's traceback that are a user's, the innermost first."""
    traceback = eqn.source_info.traceback
    for frame in traceback.frames if traceback is not None else ():
        name = frame.file_name
        if not name.startswith(_OURS):
            yield f"{pathlib.Path(name).name}:{frame.line_num}"
