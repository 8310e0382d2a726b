"""How a language model does on held-out prompts, and what else it has become."""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from models.llm.generation import GREEDY, Completions, Sampling
from tasks.reasoning import drift, scores
from tasks.reasoning.grpo import joined
from tasks.reasoning.guard import Scored
from tasks.reasoning.rows import Row


Figures = dict[str, float]
FREELY = Sampling(temperature=1.0)


class Answering(Protocol):
    """What is read of a task: all that `Reasoning` says of its held-out prompts.

    Its cached properties are a `LanguageModel`, a `Dataset`, a function that completes
    prompts, and the parameters at the start.
    """

    @property
    def language_model(self) -> Any: ...
    @property
    def data(self) -> Any: ...
    @property
    def validation_prompts(self) -> int: ...
    @property
    def validation_batch(self) -> int: ...
    @property
    def validation_samples(self) -> int: ...
    @property
    def solved_at(self) -> float: ...
    @property
    def start(self) -> Any: ...
    @property
    def completer(self) -> Any: ...
    def prompts_of(self, at: np.ndarray, rows: list[Row]) -> Any: ...
    def scored(self, done: Completions, rows: list[Row]) -> Scored: ...


def validate(task: Answering, params: PyTree, key: PRNGKeyArray) -> Figures:
    """All that is told of a model, the share of solved prompts first."""
    rows = rows_of(task)
    done = completed(task, params, rows, GREEDY, key)
    told = figures(task, done, rows)
    if task.start is not None:
        told |= compared(task, params, done, rows)
    if task.validation_samples:
        told |= passes(task, params, key)
    return told


def rows_of(task: Answering) -> list[Row]:
    """The problems that are held out."""
    return list(task.data.validation[: task.validation_prompts])


def completed(
    task: Answering,
    params: PyTree,
    rows: list[Row],
    sampling: Sampling,
    key: PRNGKeyArray,
) -> Completions:
    """A completion of each prompt, on the host; so many at once as the task says."""
    parts = []
    for start, data in _batches(task, rows):
        own = jax.random.fold_in(key, start)
        parts.append(jax.device_get(task.completer(params, data, sampling, own)))
    return jax.tree.map(lambda *x: np.concatenate(x)[: len(rows)], *parts)


def figures(task: Answering, done: Completions, rows: list[Row]) -> Figures:
    """What completions are worth, and how long they are."""
    found = task.scored(done, rows)
    return {
        "solved": float(np.mean(found.solved(task.solved_at))),
        "reward": float(np.mean(found.scores)),
        "length": float(np.mean(done.lengths)),
        "ended": float(np.mean(done.ended)),
    }


def compared(
    task: Answering, params: PyTree, done: Completions, rows: list[Row]
) -> Figures:
    """How far the parameters, and what they say in these completions, have drifted."""
    as_now = lambda old, new: np.asarray(old).astype(new.dtype)
    start = jax.device_put(jax.tree.map(as_now, task.start, params))
    total, count = 0.0, 0
    for first, data in _batches(task, rows):
        places = np.arange(first, first + task.validation_batch)
        made = jax.tree.map(lambda x, at=places: x[at % len(rows)], done)
        tokens, counts = joined(data.tokens, data.lengths, made)
        counts = np.asarray(counts) & (places < len(rows))[:, None]
        model = task.language_model
        total += float(drift.divergence(model, params, start, tokens, counts))
        count += int(counts.sum())
    return {
        "drift": float(drift.distance(params, start)),
        "divergence": total / max(count, 1),
    }


def passes(task: Answering, params: PyTree, key: PRNGKeyArray) -> Figures:
    """The estimated chance that one of 1, 2, 4, ... samples solves a prompt."""
    rows, count = rows_of(task), task.validation_samples
    solved = np.zeros(len(rows), int)
    for sample in range(count):
        own = jax.random.fold_in(key, sample)
        done = completed(task, params, rows, FREELY, own)
        solved += task.scored(done, rows).solved(task.solved_at)
    return {
        f"pass@{k}": float(np.mean(scores.pass_at_k(solved, count, k)))
        for k in (2**i for i in range(count.bit_length()))
    }


def _batches(task: Answering, rows: Sequence[Row]) -> list[tuple[int, Any]]:
    """Prompts in batches of one size, the last filled up with the first ones."""
    found = []
    for start in range(0, len(rows), task.validation_batch):
        at = np.arange(start, start + task.validation_batch) % len(rows)
        found.append((start, task.prompts_of(at, [rows[i] for i in at.tolist()])))
    return found
