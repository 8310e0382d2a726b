"""Published learning rates, converted, make the published steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eggroll
from eggroll.evolution.learning_rates import sgd_learning_rate


SIGMA, POPULATION, RATE = 0.05, 8, 0.3
STEPS = {
    # What each publication adds to the weights, for fitness weights w and unit-variance
    # perturbations E (arXiv 2511.16652, equation 6, and the code of its experiments).
    "paper": lambda w, e: RATE / POPULATION * w @ e,
    "hyperscale": lambda w, e: (
        RATE * POPULATION**0.5 * np.mean(w[:, None] * SIGMA * e, 0)
    ),
    "vllm": lambda w, e: RATE / (POPULATION * SIGMA) * w @ (SIGMA * e),
}


@pytest.mark.parametrize("convention", STEPS)
def test_a_converted_learning_rate_makes_the_published_step(convention):
    params = {"w": jnp.zeros((3, 4))}
    es = eggroll.EvolutionStrategy(POPULATION, SIGMA, shaping=eggroll.shaping.none)
    ask = es.ask(lambda p, x: x @ p["w"])
    _, generation = ask(params, jax.random.key(0), jnp.ones(3))
    members = [es.member(generation, params, i)["w"] for i in range(POPULATION)]
    perturbations = np.stack(members).reshape(POPULATION, -1) / SIGMA
    weights = np.random.default_rng(0).normal(size=POPULATION).astype(np.float32)

    rate = sgd_learning_rate(RATE, convention, sigma=SIGMA, population=POPULATION)
    optimizer = optax.sgd(rate)
    grads = es.gradient(generation, jnp.asarray(weights))
    updates, _ = optimizer.update(grads, optimizer.init(params), params)

    expected = STEPS[convention](weights, perturbations)
    np.testing.assert_allclose(np.ravel(updates["w"]), expected, rtol=1e-4, atol=1e-7)


def test_an_unknown_convention_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="one of ours, paper, hyperscale, vllm"):
        sgd_learning_rate(0.1, "papr", sigma=0.1, population=2)
