"""Programs that write the next state over the last one's arrays, where those are large.

A step then takes a copy less of the parameters and of what the optimiser keeps. The
last state is gone with it: nothing can be begun from it again, and who writes it
elsewhere needs a copy. So small states, of which nobody feels a copy, are left alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from eggroll.evolution import compilers
from eggroll.evolution.buffers import bytes_of
from eggroll.training.state import State


WORTH = 2**26  # bytes of parameters and of what is kept beside them
LEAF = 2**20  # of an array; small ones may be what others read, too


def is_worth(state: State) -> bool:
    """Whether a state, or one of its shape, is large enough."""
    return sum(map(bytes_of, _kept(state))) >= WORTH


def over(
    function: Callable[..., Any], compiler: Callable[..., Any] = compilers.jit
) -> Callable[..., Any]:
    """Compiles `(state, *rest) -> ...` such that it may write over the state's arrays.

    Args:
        function: of the state before, which returns one of the same shape.
        compiler: as `jax.jit`.
    """

    def joined(large: PyTree, small: PyTree, state: State, *rest: Any) -> Any:
        both = lambda a, b: b if a is None else a
        kept = jax.tree.map(both, large, small, is_leaf=lambda x: x is None)
        return function(_with(state, kept), *rest)

    program = compiler(joined, donate_argnums=0)

    def call(state: State, *rest: Any) -> Any:
        kept = state.params, state.opt_state
        large = jax.tree.map(lambda x: x if _is_large(x) else None, kept)
        small = jax.tree.map(lambda x: None if _is_large(x) else x, kept)
        return program(large, small, _with(state, (None, None)), *rest)

    return call


def apart(state: State) -> State:
    """A state that stays, whatever becomes of this one's arrays."""
    copy = lambda x: jnp.copy(x) if _is_large(x) else x
    return _with(state, jax.tree.map(copy, (state.params, state.opt_state)))


def is_gone(state: State) -> bool:
    """Whether a program has written over some of a state's arrays."""
    return any(isinstance(x, jax.Array) and x.is_deleted() for x in _kept(state))


def _kept(state: State) -> list[Any]:
    return jax.tree.leaves((state.params, state.opt_state))


def _with(state: State, kept: tuple[PyTree, PyTree]) -> State:
    return state._replace(params=kept[0], opt_state=kept[1])


def _is_large(x: Any) -> bool:
    return bytes_of(x) >= LEAF
