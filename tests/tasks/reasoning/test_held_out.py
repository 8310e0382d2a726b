"""What is told of a language model on held-out prompts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_llm

from eggroll import UserError
from models.llm.generation import GREEDY
from tasks.reasoning import drift, held_out, scores
from tasks.reasoning.grpo import joined
from tasks.reasoning.task import Reasoning


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return Reasoning(
        checkpoint=str(tiny_llm.write(tmp_path_factory.mktemp("tiny") / "model")),
        dataset="addition",
        dataset_options={"low": 0, "high": 9, "prompt": "{a}{sign}{b}="},
        reward="tests.tasks.reasoning.test_held_out:is_letter",
        validation_prompts=6,
        validation_batch=4,
        validation_samples=4,
        prompt_tokens=12,
        new_tokens=3,
        workers=0,
        halvings=0,
    )


@pytest.fixture(scope="module")
def params(task):
    return task.init(jax.random.key(0))


def is_letter(completion: str) -> float:
    """Something that an untrained model does now and then."""
    return float(completion[:1].isalpha())


def moved(params, size):
    return jax.tree.map(lambda x: x + size * jnp.sign(jnp.sin(1e4 * x)), params)


KEY = jax.random.key(3)


def test_at_the_start_nothing_has_drifted_and_all_that_is_wanted_is_told(task, params):
    found = task.validate(params, (), KEY)
    names = ["solved", "reward", "length", "ended", "drift", "divergence"]
    assert list(found) == [*names, "pass@1", "pass@2", "pass@4"]
    assert found["drift"] == found["divergence"] == 0
    assert found["pass@1"] <= found["pass@2"] <= found["pass@4"]
    plain = dataclasses.replace(task, compare_with_start=False, validation_samples=0)
    assert plain.start is None
    assert dataclasses.replace(task, random=True).start is None


def test_the_drift_is_the_distance_over_all_parameters(task, params):
    other = moved(params, 0.125)
    squares = [
        np.sum((np.float64(x) - np.float64(y)) ** 2)
        for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(other), strict=True)
    ]
    np.testing.assert_allclose(drift.distance(other, params), np.sqrt(sum(squares)))
    short = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    assert drift.distance(short, short) == 0


def test_the_divergence_is_that_of_the_whole_vocabulary_at_each_token(task, params):
    """Against all logits at once; of completions only, and in parts or not."""
    other, model = moved(params, 0.02), task.language_model
    rows = held_out.rows_of(task)
    done = held_out.completed(task, other, rows, GREEDY, KEY)
    told = held_out.compared(task, other, done, rows)
    data = task.prompts_of(np.arange(6), rows)
    tokens, counts = joined(data.tokens, data.lengths, done)
    tokens, counts = np.asarray(tokens), np.asarray(counts)
    ours, theirs = (
        np.float64(jax.nn.log_softmax(model.head(p, model.hidden(p, tokens))))
        for p in (other, params)
    )
    each = np.sum(np.exp(ours) * (ours - theirs), axis=-1)
    total, count = 0.0, 0
    for row in range(len(rows)):
        for at in range(1, tokens.shape[1]):
            if counts[row, at]:
                total, count = total + each[row, at - 1], count + 1
    assert count == done.lengths.sum()
    assert told["divergence"] == pytest.approx(total / count, rel=1e-4)
    assert told["divergence"] > 1e-4
    assert told["drift"] == pytest.approx(drift.distance(other, params))
    parts = drift.divergence(model, other, params, tokens, counts, together=7)
    assert float(parts) == pytest.approx(total, rel=1e-4)


def test_pass_at_k_is_that_of_samples_drawn_anew(task, params):
    params = params | {"embed": params["embed"] / 16}  # which is less sure
    found = held_out.passes(task, params, KEY)
    rows, solved = held_out.rows_of(task), np.zeros(6, int)
    seen = set()
    for sample in range(4):
        own = jax.random.fold_in(KEY, sample)
        done = held_out.completed(task, params, rows, held_out.FREELY, own)
        seen |= {bytes(row) for row in done.tokens}
        solved += task.scored(done, rows).scores >= 1
    assert len(seen) == 24  # of batches, too
    for k in (1, 2, 4):
        expected = scores.pass_at_k(solved, 4, k).mean()
        assert found[f"pass@{k}"] == pytest.approx(expected)
    assert 0 < found["pass@1"] < found["pass@4"]


def test_fewer_than_no_samples_are_refused(task):
    with pytest.raises(
        UserError, match="validation_samples: expected at least 0, got -1"
    ):
        dataclasses.replace(task, validation_samples=-1)
