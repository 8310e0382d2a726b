"""A tiny model that is taught to answer, and then learns from rewards alone."""

import numpy as np
import pytest
import tiny_llm

from eggroll.config import resolve
from eggroll.training import initial_state, prepare


def large(completion: str) -> float:
    """A digit, and the larger the better."""
    return int(completion) / 9 if len(completion) == 1 and completion.isdigit() else 0.0


def experiment(checkpoint, task, algorithm, rate, **more):
    common = {
        "class": f"tasks.reasoning.{task}",
        "checkpoint": checkpoint,
        "dataset": "addition",
        "dataset_options": {"low": 0, "high": 4, "prompt": "{a}{sign}{b}="},
        "validation_prompts": 5,
        "validation_batch": 5,
        "prompt_tokens": 6,
        "new_tokens": 2,
    }
    return prepare(
        resolve(
            {
                "task": common | more,
                "algorithm": algorithm,
                "strategy": {"population": 64, "sigma": 0.1},
                "optimizer": {"name": "adam", "learning_rate": rate},
                "budget": {"generations": 1},
                "diagnose_every": 0,
                "mesh": {"devices": 1},
            }
        )
    )


def learnt(made, state, steps):
    """The state after so many steps, and what each told."""
    told = []
    for step in range(steps):
        data = made.task.batch((), step, state.key)
        state, figures = made.algorithm.step(state, data)
        told.append(figures)
    return state, told


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(tiny_llm.write(tmp_path_factory.mktemp("tiny") / "model", layers=1))


@pytest.fixture(scope="module")
def taught(checkpoint):
    """Parameters that answer with a number, by examples."""
    made = experiment(
        checkpoint, "likelihood:Likelihood", "backprop", 0.02, examples=10
    )
    start = initial_state(made)
    state, _ = learnt(made, start, 30)
    before, after = (
        made.task.validate(x.params, (), start.key)["loss"] for x in (start, state)
    )
    assert after < before / 4
    return state.params


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "rate", "task"),
    [
        ("eggroll", 0.02, {"prompts": 6}),
        ("grpo", 0.005, {"prompts": 4, "completions": 8, "temperature": 1.0}),
    ],
)
def test_what_is_rewarded_becomes_more(checkpoint, taught, algorithm, rate, task):
    how = {
        "reward": "tests.tasks.reasoning.test_learning:large",
        "compare_with_start": False,
        "workers": 0,
        "halvings": 0,
    }
    made = experiment(checkpoint, "task:Reasoning", algorithm, rate, **how, **task)
    state, told = learnt(made, initial_state(made)._replace(params=taught), 20)
    rewards = [figures["reward"] for figures in told]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:2]) + 0.15
    held_out = [
        made.task.validate(params, (), state.key)["reward"]
        for params in (taught, state.params)
    ]
    assert held_out[1] > held_out[0]
