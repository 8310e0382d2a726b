"""What functions may be called with."""

import inspect
from collections.abc import Callable, Iterable
from inspect import Parameter, Signature


def signature_of(fn: Callable) -> Signature | None:
    """The signature of a function; of a wrapper that takes anything, what it wraps.

    (A wrapper with arguments of its own may supply others, of the function within.)
    """
    while True:
        try:
            own = inspect.signature(fn, follow_wrapped=False)
        except (TypeError, ValueError):
            own = None
        kinds = {x.kind for x in own.parameters.values()} if own else set()
        is_open = {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD} <= kinds
        inner = getattr(fn, "__wrapped__", None)
        if inner is None or (own is not None and not is_open):
            return own
        fn = inner


def takes_open(
    fn: Callable,
    name: str,
    n_args: int,
    kwargs: Iterable[str] = (),
    *,
    required: bool = False,
) -> bool:
    """Whether a function has a parameter of a name that nothing was given for.

    Args:
        fn: the function.
        name: of the parameter.
        n_args: how many arguments it is given by position.
        kwargs: the names of those it is given by name.
        required: only if it has no default.
    """
    signature = signature_of(fn)
    if signature is None:
        return False
    try:
        given = signature.bind_partial(*range(n_args)).arguments
    except TypeError:
        return False
    parameters = signature.parameters
    is_open = name in {*parameters} - {*given} - {*kwargs} - _bound(fn)
    return is_open and not (
        required and parameters[name].default is not Parameter.empty
    )


def with_key(fn: Callable) -> Signature | None:
    """The signature of `fn` with a random key as its second argument, and a step.

    So that `jax.jit` finds static arguments by their names.
    """
    signature = signature_of(fn)
    parameters = list(signature.parameters.values()) if signature else []
    names = {x.name for x in parameters}
    if not parameters or {"key", "step"} & names:
        return None
    first, *rest = parameters
    if first.kind not in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD):
        return None
    kind = Parameter.POSITIONAL_ONLY
    key, step = (
        Parameter("key", kind),
        Parameter("step", Parameter.KEYWORD_ONLY, default=0),
    )
    after = [x for x in rest if x.kind is Parameter.VAR_KEYWORD]
    before = [x for x in rest if x.kind is not Parameter.VAR_KEYWORD]
    if first.default is not Parameter.empty:
        return None
    return Signature([first.replace(kind=kind), key, *before, step, *after])


def _bound(fn: Callable) -> set[str]:
    """The names of the parameters that `functools.partial` has given a value."""
    names = set()
    while True:
        names |= {*getattr(fn, "keywords", {})}
        inner = getattr(fn, "func", None) or getattr(fn, "__wrapped__", None)
        if inner is None:
            return names
        fn = inner
