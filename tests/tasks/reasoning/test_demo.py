"""The demonstration, on a tiny checkpoint: what it measures, and when it fails."""

import jax
import numpy as np
import pytest
import tiny_llm

from tasks.reasoning import demo
from tasks.reasoning.task import Reasoning


CONFIG = """
task:
  class: tasks.reasoning.task:Reasoning
  checkpoint: {checkpoint}
  dataset: addition
  dataset_options: {{low: 0, high: 9, prompt: "{{a}}{{sign}}{{b}}="}}
  reward: tests.tasks.reasoning.test_demo:spread
  validation_prompts: 6
  validation_batch: 4
  prompt_tokens: 12
  new_tokens: 3
  prompts: 2
  workers: 0
  halvings: 0
strategy: {{population: 4, sigma: 0.3}}
optimizer: {{name: sgd, learning_rate: 0.0}}
budget: {{generations: 1}}
diagnose_every: 0
mesh: {{devices: 1}}
"""


def spread(completion, answer):
    """A reward that differs from prompt to prompt."""
    return len(completion) + int(answer) / 100


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(tiny_llm.write(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture
def config(checkpoint, tmp_path):
    path = tmp_path / "demo.yaml"
    path.write_text(CONFIG.format(checkpoint=checkpoint))
    return str(path)


def test_a_gain_is_the_mean_of_the_differences_and_their_standard_error():
    before, after = np.array([0.0, 1.0, 0.0, 1.0]), np.array([1.0, 1.0, 1.0, 1.0])
    found = demo.gain(before, after)
    assert found.mean == 0.5
    assert found.error == pytest.approx(np.sqrt(4 / 3 * 0.25 / 4))
    assert not found.is_sure  # 1.7 standard errors


def test_what_a_prompt_is_worth_before_and_after_does_not_blur_a_gain():
    before = np.random.default_rng(0).normal(size=50)
    noise = np.random.default_rng(1).normal(size=50)
    near, far = demo.gain(before, before + noise), demo.gain(100 * before, noise)
    assert near.mean == pytest.approx(noise.mean())
    assert near.error == pytest.approx(noise.std(ddof=1) / np.sqrt(50))
    assert far.error > 10 * near.error


@pytest.mark.parametrize(
    ("share", "is_sure"), [(0.0, False), (0.05, False), (0.1, True), (1.0, True)]
)
def test_a_gain_is_sure_above_three_standard_errors(share, is_sure):
    after = np.arange(100) < 100 * share  # of k in 100, it is sqrt(k) errors or so
    assert demo.gain(np.zeros(100), after.astype(float)).is_sure is is_sure


def test_rewards_of_other_prompts_are_not_compared():
    with pytest.raises(ValueError, match="3 before and 2 after"):
        demo.gain(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="same two prompts or more"):
        demo.gain(np.zeros(1), np.zeros(1))


@pytest.mark.slow
def test_a_model_that_learnt_nothing_fails(config, checkpoint, tmp_path, capsys):
    output = tmp_path / "runs"
    assert demo.main([config, "--output", str(output)]) == 1
    said = capsys.readouterr().out
    assert "6 prompts are held out" in said
    assert "--- before: mean reward" in said
    assert "--- after: mean reward" in said
    assert "+0.000 with a standard error of 0.000; wanted: more than 3" in said
    curve = said.split("curve: ")[1].split("\n")[0]
    assert curve == str(output / "demo-reasoning" / "curve.png")


def test_answers_are_those_of_validation(checkpoint):
    """The batch that is filled up counts each prompt once."""
    task = Reasoning(
        checkpoint=checkpoint,
        dataset="addition",
        reward="tests.tasks.reasoning.test_demo:spread",
        validation_prompts=6,
        validation_batch=4,
        prompt_tokens=60,
        new_tokens=3,
        workers=0,
        halvings=0,
    )
    params = task.init(jax.random.key(0))
    found = demo.answers(task, params)
    assert len(found.texts) == found.rewards.size == 6
    said = [
        spread(text, row.columns["answer"])
        for text, row in zip(found.texts, task.data.validation, strict=True)
    ]
    assert found.rewards.tolist() == said
    wanted = task.validate(params, (), jax.random.key(0))
    assert found.rewards.mean() == pytest.approx(wanted["reward"])
