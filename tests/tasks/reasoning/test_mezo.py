"""MeZO: two members, full rank, on the likelihood of given answers."""

import jax
import numpy as np
import pytest
import quick
import tiny_llm

from eggroll import training
from eggroll.config import resolve


SIGMA, RATE = 1e-2, 1e-3


@pytest.mark.slow
def test_its_step_is_the_one_derived_by_hand(tmp_path):
    """theta <- theta - rate (L(theta + sigma z) - L(theta - sigma z))/(2 sigma) z."""
    settings = resolve(
        {
            "task": {
                "class": "tasks.reasoning.likelihood:Likelihood",
                "checkpoint": str(tiny_llm.write(tmp_path / "model", layers=1)),
                "dataset": "addition",
                "dataset_options": {"low": 0, "high": 9, "prompt": "{a}{sign}{b}="},
                "validation_prompts": 6,
                "prompt_tokens": 12,
                "new_tokens": 3,
                "examples": 4,
            },
            "algorithm": "openes",
            "strategy": {
                "population": 2,
                "sigma": SIGMA,
                "noise": "gaussian",
                "shaping": "none",
            },
            "optimizer": {"name": "sgd", "learning_rate": RATE},
            "budget": {"generations": 1},
            "diagnose_every": 0,
            "mesh": {"devices": 1},
        }
    )
    experiment = training.prepare(settings)
    task, state = experiment.task, training.initial_state(experiment)
    strategy, generation = training.generation_of(experiment, state)
    data = task.batch((), 0, state.key)
    loss = quick.jit(lambda params: -task.evaluate(params, data, (), state.key)[0])
    write = quick.jit(lambda i: strategy.member(generation, state.params, i))
    plus, minus = write(0), write(1)
    slope = (loss(plus) - loss(minus)) / (2 * SIGMA)
    new, _ = experiment.algorithm.step(state, data)
    for old, moved, a, b in zip(
        *map(jax.tree.leaves, (state.params, new.params, plus, minus)), strict=True
    ):
        np.testing.assert_allclose((a + b) / 2, old, atol=1e-6)
        z = (np.asarray(a, np.float64) - np.asarray(b, np.float64)) / (2 * SIGMA)
        if z.size > 1000:  # a matrix of independent normals
            assert abs(z.std() - 1) < 0.1
            assert np.linalg.matrix_rank(z[0] if z.ndim > 2 else z) == min(z.shape[-2:])
        expected = -RATE * float(slope) * z
        np.testing.assert_allclose(np.float64(moved) - old, expected, atol=2e-5)
    assert abs(RATE * slope) > 1e-3  # far above what rounding may hide
