"""What is learnt: the protocol that every task meets."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree


@runtime_checkable
class Task(Protocol):
    """Anything that makes parameters, draws data and scores one member on it.

    Write a frozen dataclass that inherits from this class; its fields are the settings
    of the task. Its docstring tells the reader of a curve the unit of fitness, its best
    value and the value of chance. All methods are pure functions of their arguments:
    this makes runs resumable bit for bit.

    Attributes:
        differentiable: The fitness has a true gradient, so that `backprop` works.
        data_axes: Which axes of the data are members, as `in_axes` of `jax.vmap`: None
            where all members read the same, 0 where each has its row (or, with fewer
            rows than members, each group of consecutive members).
        maximise: A larger headline metric is better.
        samples: The plural name of what `aux["steps"]` counts, such as "frames".
        reference: Values of the headline metric worth a line in the curve, by name.
        score: `(aux, data) -> fitness (N,)`, for scoring on the host, in place of the
            fitness that `evaluate` returns; or `(fitness, metrics)`, the latter numbers
            by name for the log. `aux` is stacked over the members.
        scores_alone: `score` looks at each member by itself, so that each of several
            processes scores those on its own devices, given their part of `aux` and of
            the data; of metrics the log has the mean over members. Otherwise it gets
            all members, and what the first process finds counts.
        algorithms: Further algorithms, by name: `(task, config) -> Algorithm`.
    """

    differentiable: ClassVar[bool] = False
    data_axes: ClassVar[Any] = None
    maximise: ClassVar[bool] = True
    samples: ClassVar[str] = "evaluations"
    reference: ClassVar[Mapping[str, float]] = {}
    score: ClassVar[Callable[..., Any] | None] = None
    scores_alone: ClassVar[bool] = False
    algorithms: ClassVar[Mapping[str, Callable[..., Any]]] = {}

    def init(self, key: PRNGKeyArray) -> PyTree:
        """The parameters to start from."""
        ...

    def batch(self, state: PyTree, step: int, key: PRNGKeyArray) -> PyTree:
        """What step number `step` reads; NumPy or files are fine here."""
        ...

    def evaluate(
        self, params: PyTree, data: PyTree, carry: PyTree, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], PyTree, dict[str, Any]]:
        """Scores one member, in pure JAX.

        Args:
            params: Of this member.
            data: From `batch`, without the axes named by `data_axes`.
            carry: What this member kept from the step before.
            key: The same for both members of a pair, fresh each step.

        Returns:
            The fitness, higher is better; the new carry; and a dictionary in which
            `steps` counts the samples used and `metrics` holds scalars, logged as means
            over the members. The rest of it is for `update_state` and `score`.
        """
        ...

    def validate(
        self, params: PyTree, state: PyTree, key: PRNGKeyArray
    ) -> dict[str, float]:
        """Metrics of the unperturbed parameters, the headline one first."""
        ...

    def ready(self) -> None:
        """Raises `UserError` if something that a run needs is not there: weights, data.

        Called before a run, when nothing else is wrong; not by those who only look.
        """
        return

    def params_like(self) -> PyTree:
        """The shapes and types of `init`, for tasks whose `init` reads files."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def batch_like(self) -> PyTree:
        """What a `batch` is, or its shapes and types, for tasks whose `batch` does."""
        return self.batch(self.initial_state(), 0, jax.random.key(0))

    def initial_state(self) -> PyTree:
        """What the members share and learn together, such as statistics of inputs."""
        return ()

    def update_state(self, state: PyTree, aux: dict[str, Any]) -> PyTree:
        """The shared state after a step, in pure JAX; `aux` is stacked over members."""
        del aux
        return state

    def initial_carry(self, population: int) -> PyTree:
        """What each member keeps from step to step, with a leading axis of members."""
        del population
        return ()


def first_row(tree: PyTree, axes: Any) -> PyTree:
    """The part of `tree` that the first member sees, `axes` as in `jax.vmap`."""

    def row(axis: int | None, branch: PyTree) -> PyTree:
        take = lambda leaf: jnp.take(jnp.asarray(leaf), 0, axis=axis)
        return branch if axis is None else jax.tree.map(take, branch)

    return jax.tree.map(row, axes, tree, is_leaf=lambda one: one is None)


def rows(data: PyTree, axes: Any) -> int:
    """How many members `data` has a row for; 1 where all read the same."""
    counts = [1]

    def count(axis: int | None, branch: PyTree) -> None:
        if axis is not None:
            counts.extend(np.shape(leaf)[axis] for leaf in jax.tree.leaves(branch))

    jax.tree.map(count, axes, data, is_leaf=lambda one: one is None)
    return counts[-1]
