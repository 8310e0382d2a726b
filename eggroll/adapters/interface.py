"""What an adapter makes of a call."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import PyTree


class Opened(NamedTuple):
    """A call of a function on the objects of a library, as one of a pure function.

    Attributes:
        function: `function(params, *args, **kwargs) -> (result, state)`: the result of
            the function, and what it changed in the objects it was given, as a pytree
            of arrays; None exactly where it changed nothing. It may be traced any
            number of times.
        params: what may be perturbed, in the structure in which gradients come back.
        args: the other arguments. Objects whose state has to be kept are closed over,
            shared by all members, and None stands for them.
        kwargs: those by name.
        write_back: takes the state that `function` returned at the unperturbed
            parameters, and changes the objects that the user handed in accordingly. To
            be called where they were handed in (under the same trace).
        close: makes of parameters like `params` what the user handed in: a module.
    """

    function: Callable[..., tuple[Any, PyTree]]
    params: PyTree
    args: tuple[PyTree, ...]
    kwargs: dict[str, PyTree]
    write_back: Callable[[PyTree], None]
    close: Callable[[PyTree], PyTree]


class Each(tuple):
    """What to perturb of each of several arguments: filters, or None for the usual."""
