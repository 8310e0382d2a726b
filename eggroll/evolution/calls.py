"""How a user's function is called: which arguments evolve, and with which key."""

import functools
import operator
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from eggroll import adapters
from eggroll.evolution.signatures import signature_of, takes_open


class Call(NamedTuple):
    """A call of a user's function, opened to the engine.

    Attributes:
        function: `function(params, *args, **kwargs) -> (result, state)`: what the
            user's function returns, and what it changed in objects that it was given.
        params: what evolves, if its leaves are floating-point arrays.
        args: the other arguments, in their order.
        kwargs: those by name.
        has_key: whether the function is to be given a key of the member, by name.
        write_back: takes the state of the unperturbed parameters.
    """

    function: Callable[..., tuple[Any, PyTree]]
    params: PyTree
    args: tuple
    kwargs: dict[str, Any]
    has_key: bool
    write_back: Callable[[PyTree], None]


def opened(
    fn: Callable,
    args: tuple,
    kwargs: dict[str, Any],
    *,
    argnums: Any = 0,
    step: Any = None,
    wrt: Any = None,
) -> Call:
    """Opens a call of `fn(*args, **kwargs)`.

    Args:
        fn: the function.
        args: its arguments by position.
        kwargs: its arguments by name.
        argnums: which of `args` evolve; several as a tuple (or `nnx.DiffState`).
        step: number of the generation; given to `fn` if it has a parameter `step` that
            is left open.
        wrt: of a module of Flax NNX, the variables that evolve.

    Raises:
        TypeError: if `fn` cannot be called so.
        ValueError: if `argnums` names an argument that there is not.
    """
    n = len(args)
    if takes_open(fn, "step", n, kwargs, required=step is None):
        kwargs = {**kwargs, "step": 0 if step is None else step}
    has_key = takes_open(fn, "key", n, kwargs)
    _check_call(fn, args, {**kwargs, "key": None} if has_key else kwargs)
    argnums, filters = adapters.positions(argnums)
    params, rest, put = _selected(args, argnums)
    fn = functools.partial(_called, fn, put)
    inner = adapters.opened(fn, params, rest, kwargs, wrt or filters)
    params = jax.tree.map(_number_as_array, inner.params)
    return Call(
        inner.function, params, inner.args, inner.kwargs, has_key, inner.write_back
    )


def without_state(function: Callable[..., tuple[Any, PyTree]]) -> Callable[..., Any]:
    """The function of a call, for members alone; warns of changes that are dropped."""

    def result(*args: Any, **kwargs: Any) -> Any:
        result, state = function(*args, **kwargs)
        if state is not None:
            warnings.warn(
                "the function changes the state of a module (batch statistics, counts "
                "of random keys): what members change is dropped. Set the module to "
                "evaluation, or use value_and_grad, which writes it back",
                stacklevel=2,
            )
        return result

    return result


def check_key(
    key: Any, *, position: str = "second", call: str = "(params, key, *args)"
) -> None:
    """Refuses what is no random key.

    Args:
        key: what was given for it.
        position: where it has to stand, in words.
        call: how, as a call.

    Raises:
        TypeError: if it is none; several of them, too.
    """
    is_key, is_array = False, isinstance(key, jax.Array | np.ndarray)
    if is_array and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        is_key = key.shape == ()
    elif is_array and key.dtype == np.uint32:
        is_key = key.shape == jax.eval_shape(jax.random.PRNGKey, 0).shape
    if not is_key:
        raise TypeError(
            f"the {position} argument must be a random key, such as jax.random.key(0), "
            f"got {_describe(key)}: call it as {call}, where (params, *args) are the "
            f"function's own arguments"
        )


def _check_call(fn: Callable, args: tuple, kwargs: dict[str, Any]) -> None:
    signature = signature_of(fn)
    if signature is None:
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        name = getattr(fn, "__name__", "the function")
        raise TypeError(
            f"{name}{signature} cannot be called with these {len(args)} arguments by "
            f"position: {error}. Call it as (params, key, *args): the key of the "
            f"perturbations stands second and is not one of them"
        ) from error


def _selected(
    args: tuple, argnums: Any
) -> tuple[PyTree, tuple, Callable[[PyTree, tuple], tuple]]:
    """Returns the arguments that evolve, the others, and how to put them together."""
    is_one, n = hasattr(argnums, "__index__"), len(args)
    given = (argnums,) if is_one else argnums
    is_known = isinstance(given, tuple | list) and all(
        hasattr(i, "__index__") and -n <= i < n for i in given
    )
    numbers = tuple(operator.index(i) % n for i in given) if is_known else ()
    if not numbers or len({*numbers}) < len(numbers):
        raise ValueError(
            f"argnums must name arguments of the function by number, each once, the "
            f"key not counted: got {argnums!r} and {n} arguments"
        )
    others = [i for i in range(n) if i not in numbers]
    chosen = tuple(args[i] for i in numbers)

    def put(params: PyTree, rest: tuple) -> tuple:
        chosen = (params,) if is_one else params
        order = [*numbers, *others]
        by_number = dict(zip(order, [*chosen, *rest], strict=True))
        return tuple(by_number[i] for i in range(n))

    params = chosen[0] if is_one else chosen
    return params, tuple(args[i] for i in others), put


def _called(
    fn: Callable, put: Callable, params: PyTree, /, *rest: Any, **kwargs: Any
) -> Any:
    return fn(*put(params, rest), **kwargs)


def _number_as_array(x: Any) -> Any:
    """A parameter that is a number (a float of Python, a scalar of NumPy), an array."""
    return jnp.asarray(x) if isinstance(x, float | np.generic) else x


def _describe(x: Any) -> str:
    if type(x).__name__ == "Rngs":  # which has any attribute, and is a function
        return "an nnx.Rngs (give a key of it, rngs())"
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{x.dtype}{list(x.shape)}"
    if isinstance(x, int | float | str):
        return f"{type(x).__name__} {x!r}"
    return f"a {type(x).__name__}"
