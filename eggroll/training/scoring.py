"""Fitness that a task computes on the host, in one process or in several."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Num, PyTree

from eggroll.evolution.validation import one_per_member
from eggroll.task.protocol import Task, rows
from eggroll.training import instantiate, processes


Scores = tuple[Num[np.ndarray, " members"], dict[str, float]]


def scored(task: Task, aux: PyTree, data: PyTree, members: int) -> Scores:
    """What `task.score` says of all members, the same on all processes.

    Where the task scores each member alone, each process scores those that lie on its
    own devices; otherwise what the first one finds is told to all.

    Args:
        task: That has a `score`.
        aux: Of all members, wherever they lie.
        data: That they read.
        members: How many they are.

    Raises:
        UserError: There is not one number a member.
    """
    if jax.process_count() == 1:
        return _of_some(task, jax.device_get(aux), data, members)
    if task.scores_alone and rows(data, task.data_axes) in (1, members):
        own, part = processes.of_here(aux, members)
        count = own.stop - own.start
        found = _of_some(task, part, _rows(task, data, own), count)
        return _together(processes.joined((own.start, *_plain(*found))), members)
    found = _of_some(task, processes.whole(aux), data, members)
    scores, told = processes.by_first(lambda: _plain(*found))
    return np.asarray(scores), told


def _of_some(task: Task, aux: PyTree, data: PyTree, members: int) -> Scores:
    assert task.score is not None
    found = task.score(aux, data)
    scores, told = found if isinstance(found, tuple) else (found, {})
    with instantiate.blaming(f"{type(task).__name__}: score"):
        return one_per_member(scores, members, "fitness"), told


def _rows(task: Task, data: PyTree, own: slice) -> PyTree:
    """What some members read, of all members' data."""

    def part(axis: int | None, branch: PyTree) -> PyTree:
        if axis is None:
            return branch
        take = lambda x: x[(slice(None),) * axis + (own,)]
        return jax.tree.map(take, branch)

    is_none = lambda x: x is None
    return jax.tree.map(part, task.data_axes, data, is_leaf=is_none)


def _together(
    parts: list[tuple[int, list[float], dict[str, float]]], members: int
) -> Scores:
    """Scores in the members' order, and the means of what is told beside them."""
    scores = np.full(members, np.nan)
    for start, some, _ in parts:  # who shares a model scores the same members
        scores[start : start + len(some)] = some
    sizes = [len(some) for _, some, _ in parts]
    names = parts[0][2]
    told = {
        name: float(np.average([told[name] for *_, told in parts], weights=sizes))
        for name in names
    }
    return scores, told


def _plain(
    scores: Num[Any, " population"], told: dict[str, Any]
) -> tuple[list[float], dict[str, float]]:
    figures = {name: float(value) for name, value in told.items()}
    return np.asarray(scores, np.float64).tolist(), figures
