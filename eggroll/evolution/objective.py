"""What is made better: a loss or a fitness, and what of its results a caller sees."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Bool, Num, PyTree

from eggroll.evolution import signatures
from eggroll.evolution.calls import Call
from eggroll.evolution.tracing import Trace
from eggroll.evolution.validation import check_fitness


Value = Literal["unperturbed", "mean", "first", "members"]


@dataclasses.dataclass(frozen=True)
class Objective:
    """A function to be minimised or maximised.

    Attributes:
        function: of the parameters and data, with one number as its result.
        is_loss: whether less is better.
        has_aux: whether its result is `(number, aux)`.
        in_axes: which arguments have rows for members, as in `Population.ask`.
        argnums: which of its arguments evolve.
        value: what the caller sees of its results; None for what there is.
        wrt: of a module of Flax NNX, the variables that evolve.

    Raises:
        ValueError: for a `value` that is unknown.
        TypeError: if `function` is none.
    """

    function: Callable
    is_loss: bool
    has_aux: bool = False
    in_axes: Any = None
    argnums: Any = 0
    value: Value | None = None
    wrt: Any = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(
                f"expected a function, got a {type(self.function).__name__}: call it "
                f"as value_and_grad(loss)(params, key, *args)"
            )
        if self.value not in (None, *get_args(Value)):
            raise ValueError(
                f"value must be one of {', '.join(get_args(Value))}, got {self.value!r}"
            )

    def checked(self, call: Call) -> Call:
        """The call of a function that returns `number, (aux, state)`, and refuses."""

        def function(*args: Any, **kwargs: Any) -> tuple[Any, tuple[PyTree, PyTree]]:
            result, state = call.function(*args, **kwargs)
            check_fitness(result, has_aux=self.has_aux)
            number, aux = result if self.has_aux else (result, None)
            return number, (aux, state)

        return call._replace(function=function)

    def value_of(self, traced: Trace) -> Value:
        """What the caller sees of the function, as it was traced.

        Raises:
            ValueError: if members have data of their own, and it should be that of
                one evaluation.
        """
        if not any(traced.is_mapped):
            return self.value or "unperturbed"
        if self.value == "unperturbed":
            raise ValueError(
                "value='unperturbed' is one evaluation, but members have data of their "
                "own (in_axes): choose 'mean', 'first' or 'members'"
            )
        return self.value or "mean"

    def to_maximise(self, number: Num[Array, " members"]) -> Num[Array, " members"]:
        """Fitness: what the function returned, or minus that."""
        if not self.is_loss:
            return number
        if jnp.issubdtype(number.dtype, jnp.unsignedinteger):
            number = number.astype(jnp.promote_types(number.dtype, jnp.int8))
        return -number

    def named(self, run: Callable) -> Callable:
        """Gives a function the name, description and arguments of the objective."""
        for name in ("__name__", "__qualname__", "__module__", "__doc__"):
            if (value := getattr(self.function, name, None)) is not None:
                setattr(run, name, value)
        if (signature := signatures.with_key(self.function)) is not None:
            setattr(run, "__signature__", signature)  # noqa: B010
        return run


def first(results: Sequence[Array]) -> list[Array]:
    """The results of the first member."""
    return [x[0] for x in results]


def mean(results: Sequence[Array], counted: Bool[Any, " members"]) -> list[Array]:
    """The mean results of the members that did not fail.

    The first result is the number. It is NaN if no member counts. What is no
    floating-point number is that of the first member.
    """
    number = results[0]
    value = jnp.where(counted.any(), _mean(number, number), jnp.nan)
    rest = (
        _mean(x, number) if jnp.issubdtype(x.dtype, jnp.inexact) else x[0]
        for x in results[1:]
    )
    return [value, *rest]


def _mean(x: Array, number: Num[Array, " members"]) -> Array:
    finite = jnp.isfinite(number)
    keep = finite.reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.sum(jnp.where(keep, x / jnp.sum(finite), 0), axis=0, dtype=_dtype(x))


def _dtype(x: Array) -> Any:
    return x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else None
