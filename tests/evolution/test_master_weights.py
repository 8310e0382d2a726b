"""Float32 master weights: nothing of an update is lost to rounding."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick

from eggroll import with_master_weights


PARAMS = {"w": jnp.ones(4, jnp.bfloat16), "b": jnp.ones(3)}
# bfloat16 near 1 moves in steps of 1/256, downwards; one step here is a tenth of that
GRADS = {"w": jnp.full(4, 1.0), "b": jnp.full(3, 1.0)}
RATE = 1 / 2560


def train(optimizer, steps, params: Any = PARAMS) -> Any:
    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(GRADS, state, params)
        return (optax.apply_updates(params, updates), state), None

    run = quick.jit(
        lambda params: jax.lax.scan(
            step, (params, optimizer.init(params)), length=steps
        )[0]
    )
    return run(params)


def test_small_updates_add_up():
    params, _ = train(with_master_weights(optax.sgd(RATE)), 100)
    np.testing.assert_allclose(
        params["w"].astype(jnp.float32), 1 - 100 * RATE, atol=2e-3
    )
    lost, _ = train(optax.sgd(RATE), 100)
    np.testing.assert_array_equal(lost["w"].astype(jnp.float32), 1.0)


@pytest.mark.parametrize("make", [optax.sgd, optax.adam, optax.adamw])
@pytest.mark.parametrize("steps", [1, 7, 40])
def test_parameters_are_the_master_weights_rounded(make, steps):
    params, state = train(with_master_weights(make(0.01)), steps)
    for k, leaf in params.items():
        assert leaf.dtype == PARAMS[k].dtype
        rounded = state.master[k].astype(leaf.dtype)
        np.testing.assert_array_equal(
            leaf.astype(jnp.float32), rounded.astype(jnp.float32)
        )


def test_the_optimiser_sees_the_master_weights():
    """Weight decay, for one, is of them."""
    _, state = train(with_master_weights(optax.adamw(0.01, weight_decay=0.1)), 5)
    alone: Any = {k: x.astype(jnp.float32) for k, x in PARAMS.items()}
    optimizer = optax.adamw(0.01, weight_decay=0.1)
    opt_state = optimizer.init(alone)
    for _ in range(5):
        updates, opt_state = optimizer.update(GRADS, opt_state, alone)
        alone = optax.apply_updates(alone, updates)
    np.testing.assert_allclose(state.master["w"], alone["w"], rtol=1e-6)


def test_master_weights_are_float32_or_wider():
    state: Any = with_master_weights(optax.sgd(1.0)).init(PARAMS)
    assert state.master["w"].dtype == jnp.float32
    assert state.master["b"].dtype == jnp.float32


def test_integers_are_left_alone():
    params, grads = {"n": jnp.arange(3)}, {"n": jnp.zeros(3, jnp.int32)}
    optimizer = with_master_weights(optax.sgd(1.0))
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    moved: Any = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(moved["n"], params["n"])
    assert moved["n"].dtype == jnp.int32


def test_updating_without_parameters_is_refused():
    optimizer = with_master_weights(optax.sgd(1.0))
    with pytest.raises(ValueError, match=r"needs update\(grads, state, params\)"):
        optimizer.update(GRADS, optimizer.init(PARAMS))
