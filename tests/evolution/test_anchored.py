"""Decay towards the start."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick

from eggroll import anchored, clipup, frozen, trainable, with_master_weights


PARAMS = {"w": jnp.asarray([1.0, -2.0]), "n": jnp.arange(3), "b": jnp.asarray(0.5)}
GRADS = {
    "w": jnp.asarray([1.0, 3.0]),
    "n": jnp.zeros(3, jnp.int32),
    "b": jnp.asarray(-1.0),
}
RATE, SHARE = 0.5, 0.25


def train(optimizer, steps: int, params: Any = PARAMS, grads: Any = GRADS) -> Any:
    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(grads, state, params)
        new = optax.apply_updates(params, updates)
        return (new, state), new

    run = quick.jit(
        lambda params: jax.lax.scan(
            step, (params, optimizer.init(params)), length=steps
        )
    )
    return run(params)


def test_each_step_takes_back_a_share_of_the_way():
    """After t steps of u each: start + u (1 - (1 - rate)^t) / rate."""
    _, seen = train(anchored(optax.sgd(RATE), SHARE), 4)
    done = (1 - (1 - SHARE) ** np.arange(1, 5)) / SHARE
    for name in ("w", "b"):
        steps = np.multiply.outer(done, -RATE * GRADS[name])
        np.testing.assert_allclose(seen[name], PARAMS[name] + steps, rtol=1e-6)
    np.testing.assert_array_equal(seen["n"][-1], PARAMS["n"])


def test_steps_that_stay_the_same_come_to_rest_at_the_start_and_a_step_over_the_rate():
    (params, _), _ = train(anchored(optax.sgd(RATE), SHARE), 80)
    rest = PARAMS["w"] - RATE * GRADS["w"] / SHARE
    np.testing.assert_allclose(params["w"], rest, rtol=1e-6)


def test_without_a_pull_and_at_the_start_it_is_the_optimiser_itself():
    plain, free, held = (
        train(made, 3)[1]
        for made in (
            clipup(0.1),
            anchored(clipup(0.1), 0.0),
            anchored(
                clipup(0.1),
                lambda step: jnp.where(step == 0, 1.0, 0.0),
            ),
        )
    )
    for other in (free, held):
        jax.tree.map(np.testing.assert_array_equal, other, plain)


def test_a_whole_share_goes_back_each_time_whatever_the_optimiser():
    _, seen = train(anchored(optax.sgd(RATE), 1.0), 3)
    for step in range(3):
        np.testing.assert_allclose(seen["w"][step], PARAMS["w"] - RATE * GRADS["w"])


def test_the_rate_may_follow_a_schedule():
    schedule = optax.linear_schedule(0.0, 1.0, 2)
    _, seen = train(anchored(optax.sgd(RATE), schedule), 3)
    step = -RATE * GRADS["b"]
    np.testing.assert_allclose(seen["b"] - PARAMS["b"], step * np.array([1, 1.5, 1]))


def test_what_never_moves_has_no_start_kept():
    mask = trainable(PARAMS, {"w": frozen})
    state: Any = optax.masked(anchored(optax.sgd(RATE), SHARE), mask).init(PARAMS)
    assert [x.shape for x in jax.tree.leaves(state.inner_state.start)] == [()]


def test_small_pulls_add_up_beneath_master_weights():
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    grads = {"w": jnp.full(2, -1 / 512)}  # a step rounds away in bfloat16
    optimizer = with_master_weights(anchored(optax.sgd(1.0), 1 / 16))
    (params, state), _ = train(optimizer, 200, params, grads)
    np.testing.assert_allclose(state.master["w"], 1 + 16 / 512, rtol=1e-5)
    np.testing.assert_array_equal(params["w"], jnp.asarray(1 + 16 / 512, jnp.bfloat16))


def test_impossible_rates_and_missing_parameters_are_refused():
    for rate in (-0.1, 1.5):
        with pytest.raises(ValueError, match="share from 0 to 1, got"):
            anchored(optax.sgd(1.0), rate)
    optimizer = anchored(optax.sgd(1.0), 0.1)
    with pytest.raises(ValueError, match=r"needs update\(grads, state, params\)"):
        optimizer.update(GRADS, optimizer.init(PARAMS))
