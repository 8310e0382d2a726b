"""A task tried out before a long run: what is wrong with it is said in one line."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from eggroll.errors import UserError
from eggroll.task.protocol import Task, first_row


def check_task(task: Task, population: int = 2) -> dict[str, float]:
    """Tries a task out, at the price of one validation.

    Args:
        task: The task.
        population: How many members carry and data are made for.

    Returns:
        The metrics of freshly initialised parameters.

    Raises:
        UserError: A method is missing or returns something of another form than the
            protocol says.
    """
    key = jax.random.key(0)
    check_evaluation(task, population, first_batch(task))
    return validate(task, task.init(key), task.initial_state(), key)


def validate(
    task: Task, params: PyTree, state: PyTree, key: PRNGKeyArray
) -> dict[str, float]:
    """`task.validate`, its result checked and as Python numbers."""
    return numbers(task, task.validate(params, state, key))


def numbers(task: Task, metrics: Any) -> dict[str, float]:
    """The metrics of a validation as Python numbers, by name; refuses anything else."""
    if not isinstance(metrics, Mapping) or not metrics:
        got = f"{metrics!r:.80}"
        raise _error(task, f"validate: expected a dictionary of numbers, got {got}")
    found = {}
    for name, value in metrics.items():
        try:
            found[str(name)] = float(value)
        except (TypeError, ValueError):
            got = f"{value!r:.80}"
            raise _error(
                task, f"validate: expected a number as {name!r}, got {got}"
            ) from None
    return found


def first_batch(task: Task) -> PyTree:
    """The form of a batch, of a task seen to have all the methods of the protocol."""
    methods = [name for name in vars(Task) if inspect.isfunction(getattr(Task, name))]
    for name in methods:
        if not name.startswith("_") and not callable(getattr(task, name, None)):
            raise _error(task, f"has no method {name!r}: inherit from eggroll.Task")
    return task.batch_like()


def check_evaluation(task: Task, population: int, data: PyTree) -> None:
    """The part of `check_task` that computes nothing.

    Args:
        task: The task.
        population: How many members carry is made for.
        data: From `first_batch`; its forms alone count.
    """
    key = jax.random.key(0)
    params = task.params_like()
    if not any(_is_learnable(leaf) for leaf in jax.tree.leaves(params)):
        raise _error(
            task, "init: expected an array of floats among the leaves, got none"
        )
    state, carry = task.initial_state(), task.initial_carry(population)
    for path, leaf in jax.tree_util.tree_leaves_with_path(carry):
        if jnp.shape(leaf)[:1] != (population,):
            raise _error(
                task,
                f"initial_carry: expected a leading axis of the population, "
                f"{population}, got {_form(leaf)} at {_place(path)}",
            )
    row = jax.eval_shape(lambda data: first_row(data, task.data_axes), data)
    aux = _check_member(task, params, row, first_row(carry, 0), key)
    stacked = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((population, *leaf.shape), leaf.dtype), aux
    )
    new_state = jax.eval_shape(task.update_state, state, stacked)
    _check_same(task, "update_state: expected the state", state, new_state)


def _check_member(
    task: Task, params: PyTree, data: PyTree, carry: PyTree, key: PRNGKeyArray
) -> PyTree:
    """Evaluates one member abstractly; returns the form of its `aux`."""

    def evaluate(params, data, carry, key):
        result = task.evaluate(params, data, carry, key)
        if not (isinstance(result, tuple) and len(result) == 3):
            raise _error(
                task,
                "evaluate: expected the three results (fitness, carry, aux), "
                f"got {result!r:.80}",
            )
        return result

    fitness, new_carry, aux = jax.eval_shape(evaluate, params, data, carry, key)
    if jnp.shape(fitness) != ():
        raise _error(
            task,
            f"evaluate: expected one number as fitness, got {_form(fitness)}: "
            "take the mean or the sum",
        )
    kinds = (jnp.floating, jnp.integer)
    if not any(jnp.issubdtype(fitness.dtype, kind) for kind in kinds):
        raise _error(
            task,
            f"evaluate: expected a real number as fitness, got {fitness.dtype}: "
            "convert it with .astype(jnp.float32)",
        )
    if not isinstance(aux, Mapping):
        raise _error(
            task,
            "evaluate: expected a dictionary as aux, the third result, "
            f"got {aux!r:.80}: return {{}} if there is nothing to tell",
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(
        {name: aux[name] for name in ("steps", "metrics") if name in aux}
    ):
        if leaf.shape != ():
            raise _error(
                task,
                f"evaluate: expected one number in aux at {_place(path)}, "
                f"got {_form(leaf)}",
            )
    _check_same(task, "evaluate: expected the carry", carry, new_carry)
    return aux


def _check_same(task: Task, what: str, before: PyTree, after: PyTree) -> None:
    """Refuses a loop variable that changes its structure, shapes or dtypes."""
    before = jax.eval_shape(lambda: before)
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise _error(
            task,
            f"{what} to keep its structure {jax.tree.structure(before)}, "
            f"got {jax.tree.structure(after)}",
        )
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True
    )
    for (path, old), new in pairs:
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise _error(
                task,
                f"{what} to keep its form, {_form(old)} at {_place(path)}, "
                f"got {_form(new)}",
            )


def _is_learnable(leaf: Any) -> bool:
    # int8 weights are learnt by thresholded updates.
    return jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.dtype == jnp.int8


def _form(leaf: Any) -> str:
    return f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}"


def _place(path: tuple) -> str:
    return repr(jax.tree_util.keystr(path) or "the top")


def _error(task: Task, message: str) -> UserError:
    return UserError(f"{type(task).__name__}: {message}")
