"""Evaluates a jaxpr equation by equation, on arrays some of which are perturbed.

An operation that takes a perturbed array has a rule, which works with weight and
factors apart; without one, or where the rule declines, the array is written out.
"""

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from eggroll.perturbation import jaxprs
from eggroll.perturbation.array import Perturbed
from eggroll.perturbation.flow import Flow


class Use(enum.Enum):
    """What an operation does with some dimensions of a perturbed array."""

    BATCH = "takes them apart: a loop over layers, or the batch of a product"
    CONTRACT = "sums over them"
    INDEX = "takes single positions along them, found at run time"
    PART = "takes a single position along them, a fixed one"
    WRITE_OUT = "needs the array, which is low-rank, written out"


class Observer(Protocol):
    """Is told whenever a perturbed array is used."""

    def __call__(
        self,
        use: Use,
        leaf: Perturbed,
        primitive: str,
        dims: Sequence[int],
        calls: Sequence[JaxprEqn] = (),
    ) -> None:
        """Notes a use of `dims` of a leaf.

        Args:
            use: what is done with them.
            leaf: the perturbed array.
            primitive: the operation's name.
            dims: the dimensions concerned.
            calls: of what is written out, the operation's equation, behind those of
                the calls and loops around it.
        """


# `rule(eqn, operands, run)` returns the result, perturbed or not (a list if the
# operation has several), or None to have its operands written out.
PrimitiveRule = Callable[[JaxprEqn, list[Any], "Interpreter"], Any]


def is_perturbed(x: Any) -> bool:
    """Whether `x` is a perturbed array (to be a leaf of a pytree as a whole)."""
    return isinstance(x, Perturbed)


@dataclasses.dataclass(frozen=True)
class Interpreter:
    """Evaluates jaxprs.

    Attributes:
        rules: by the name of a primitive.
        observe: is told of every use of a perturbed array.
        flow: where data and perturbed arguments get to.
        calls: the equations of the calls and loops that are being evaluated.
    """

    rules: Mapping[str, PrimitiveRule]
    observe: Observer
    flow: Flow
    calls: tuple[JaxprEqn, ...] = ()

    def evaluate(self, closed: ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
        """Returns the results of a jaxpr, which may be perturbed arrays."""
        jaxpr, env = closed.jaxpr, {}

        def read(atom: Any) -> Any:
            return atom.val if jaxprs.is_literal(atom) else env[atom]

        env.update(zip(jaxpr.constvars, closed.consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        for eqn in jaxpr.eqns:
            operands = [read(v) for v in eqn.invars]
            with jaxprs.context(eqn):
                # Most equations meet ordinary arrays only, and stay as they are.
                if any(map(is_perturbed, operands)) or jaxprs.is_ours(eqn):
                    outs = self._apply(eqn, operands)
                else:
                    outs = jaxprs.rebind(eqn, operands)
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def finish(self, closed: ClosedJaxpr, args: Sequence[Any]) -> list[jax.Array]:
        """Returns the results of a jaxpr, written out."""
        return [self.written_out(x, "result") for x in self.evaluate(closed, args)]

    def written_out(self, x: Any, primitive: str) -> Any:
        """Returns `x`, written out if it is a perturbed array.

        Raises:
            ValueError: if it is quantised: nothing but floats can stand for it.
        """
        if not is_perturbed(x):
            return x
        if x.is_quantised:
            raise ValueError(
                f"`{primitive}` meets {', '.join(x.paths) or 'a leaf'}, {x.dtype} of "
                f"shape {x.shape}, whose members are whole numbers plus noise: convert "
                f"it to a floating-point type first (x @ q.astype(x.dtype)), or leave "
                f"`quantised=True` out of its rule"
            )
        if not x.is_free_to_write_out:
            self.observe(Use.WRITE_OUT, x, primitive, range(x.ndim), self.calls)
        return x.materialise()

    def _apply(self, eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
        """Evaluates an equation by its rule, or enters the function that it calls."""
        within = dataclasses.replace(self, calls=(*self.calls, eqn))
        # What merely calls a function is entered, so that its body meets the rules.
        if (inner := jaxprs.inlined(eqn)) is not None:
            return within.evaluate(inner, operands)
        name = eqn.primitive.name
        rule = self.rules.get(name)
        outs = None if rule is None else rule(eqn, operands, within)
        if outs is None:
            return jaxprs.rebind(eqn, [within.written_out(x, name) for x in operands])
        return outs if isinstance(outs, list) else [outs]
