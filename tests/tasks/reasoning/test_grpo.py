"""GRPO on bandits, whose gradient and optimum are known."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eggroll import UserError
from eggroll.config import resolve
from eggroll.training import State
from models.llm.generation import Completions, Sampling, generate
from tasks.reasoning.grpo import (
    Experience,
    GRPOSettings,
    advantages,
    algorithm,
    joined,
    objective,
)


ARMS, BEST = 5, 3
HALVES = GRPOSettings(minibatches=2)


class Sizes(NamedTuple):
    vocabulary: int = ARMS
    context: int = 64
    end_tokens: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Arms:
    """A language model that says each token with a probability of its own."""

    config = Sizes()

    def init_state(self, batch, length, dtype=jnp.float32):
        return jnp.zeros(batch)

    def prefill(self, params, tokens, lengths, state):
        return jnp.broadcast_to(params, (tokens.shape[0], ARMS)), state

    def decode(self, params, token, state):
        return jnp.broadcast_to(params, (token.shape[0], ARMS)), state

    def take(self, state, rows):
        return state[rows]

    def hidden(self, params, tokens):
        return jnp.zeros((*tokens.shape, 1), params.dtype)

    def head(self, params, hidden):
        return hidden + params


class Pull(NamedTuple):
    tokens: Any
    lengths: Any


@dataclasses.dataclass(frozen=True)
class Bandit:
    """The reward is the share of tokens that are the best arm's."""

    prompts: int = 4
    completions: int = 8
    groups: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    grpo: GRPOSettings = HALVES
    language_model = Arms()

    def data(self):
        rows = self.prompts * self.completions
        return Pull(jnp.zeros((rows, 2), jnp.int32), jnp.full(rows, 2))

    def evaluate(self, params, data, carry, key):
        done = generate(
            self.language_model,
            params,
            *data,
            new_tokens=2,
            sampling=Sampling(self.temperature),
            key=key,
        )
        return 0.0, carry, {"completions": done}

    def rewards(self, done, data):
        hits = np.mean(done.tokens == BEST, axis=1)
        return hits.reshape(1, self.prompts, -1), {"reward": hits.mean()}


def learnt(task, steps, rate=0.5, rules=()):
    config = resolve(
        {
            "task": {"class": "tests.support.toy:Line"},
            "optimizer": {"name": "sgd", "learning_rate": rate},
            "strategy": {"rules": dict(rules)},
            "budget": {"generations": 1},
        }
    )
    learner = algorithm(task, config)
    params = jnp.zeros(ARMS)
    state = State(params, learner.init(params), jnp.int32(0), jax.random.key(0), (), ())
    metrics = {}
    for _ in range(steps):
        state, metrics = learner.step(state, task.data())
    return state, metrics


@pytest.mark.parametrize(
    "by_spread", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_a_bandit_s_best_arm_is_found(by_spread):
    task = Bandit(grpo=GRPOSettings(minibatches=2, by_spread=by_spread))
    state, metrics = learnt(task, 100, rate=0.5 if by_spread else 2.0)
    assert jax.nn.softmax(state.params)[BEST] > 0.9
    assert metrics["reward"] > 0.8


def test_what_rules_freeze_does_not_learn():
    state, metrics = learnt(Bandit(), 2, rules={"**": "frozen"})
    assert metrics["gradient/norm"] > 0
    assert np.all(state.params == 0)


def test_the_divergence_from_the_start_holds_back():
    free, _ = learnt(Bandit(), 30)
    held, metrics = learnt(
        Bandit(grpo=GRPOSettings(minibatches=2, divergence=10.0)), 30, rate=0.05
    )
    assert metrics["grpo/divergence"] < 0.2
    assert jnp.abs(held.params).max() < jnp.abs(free.params).max()


def test_the_gradient_is_that_derived_by_hand():
    """At ratio 1: the mean over tokens of A (onehot - p) / temperature."""
    temperature, params = 0.7, jnp.asarray([0.1, -0.4, 0.3, 0.0, 0.9])
    tokens = jnp.asarray([[0, 1, 2, 3], [0, 4, 4, 0]])
    counts = jnp.asarray([[False, True, True, True], [False, True, True, False]])
    gains = jnp.asarray([1.5, -0.5])

    def likelihood(params):
        return jnp.take(jax.nn.log_softmax(params / temperature), tokens)

    data = Experience(tokens, counts, likelihood(params), None, gains)
    value = lambda params: objective(likelihood(params), data, GRPOSettings())[0]
    p = np.asarray(jax.nn.softmax(params / temperature))
    hand = np.zeros(ARMS)
    for row, (gain, length) in enumerate([(1.5, 3), (-0.5, 2)]):
        for token in tokens[row, 1 : 1 + length].tolist():
            hand += gain * (np.eye(ARMS)[token] - p) / temperature / length / 2
    np.testing.assert_allclose(jax.grad(value)(params), hand, atol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "gain", "slope"),
    [(1.3, 1.0, 0.0), (1.3, -1.0, -1.3), (0.7, 1.0, 0.7), (0.7, -1.0, 0.0)],
)
def test_what_is_clipped_has_no_gradient(ratio, gain, slope):
    one = jnp.ones((1, 1))
    data = Experience(one.astype(int), one > 0, 0 * one, None, jnp.asarray([gain]))
    value = lambda now: objective(now * one, data, GRPOSettings(clip=0.2))[0]
    assert jax.grad(value)(jnp.log(ratio)) == pytest.approx(slope, abs=1e-6)


def test_advantages_are_of_each_prompt_s_group():
    rewards = jnp.asarray([[1.0, 0, 0, 1], [2, 2, 2, 2]])
    np.testing.assert_allclose(
        advantages(rewards), [[1, -1, -1, 1], [0, 0, 0, 0]], atol=1e-3
    )
    np.testing.assert_allclose(
        advantages(rewards, by_spread=False), [[0.5, -0.5, -0.5, 0.5], [0, 0, 0, 0]]
    )


def test_completions_stand_behind_their_prompts():
    done = Completions(
        jnp.asarray([[7, 8, 0], [9, 0, 0]]), jnp.asarray([2, 1]), jnp.ones(2, bool)
    )
    tokens, counts = joined(jnp.asarray([[1, 0], [2, 3]]), jnp.asarray([1, 2]), done)
    assert tokens.tolist() == [[1, 7, 8, 0, 0], [2, 3, 9, 0, 0]]
    assert counts.tolist() == [
        [False, True, True, False, False],
        [False, False, True, False, False],
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"completions": 1}, "completions of at least 2"),
        ({"temperature": 0.0}, "a temperature above 0"),
        ({"top_p": 0.9}, "top_p 1"),
        ({"groups": 2}, "groups 1"),
        ({"grpo": GRPOSettings(minibatches=5)}, "divide prompts x completions = 32"),
    ],
)
def test_what_leaves_nothing_to_compare_is_refused(settings, said):
    with pytest.raises(UserError, match=said):
        learnt(Bandit(**settings), 0)
    for wrong in ({"clip": 0.0}, {"minibatches": 0}, {"divergence": -1.0}):
        with pytest.raises(UserError, match="grpo"):
            GRPOSettings(**wrong)
