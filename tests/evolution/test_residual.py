"""A residual beside weights of eight bits: no step is lost, however small."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick

from eggroll import with_residual
from eggroll.evolution import residual as residuals


FINENESS = {jnp.int8: 2.0**-8, jnp.int16: 2.0**-16, jnp.float32: 1.0}
DTYPES = tuple(FINENESS)
SGD = optax.sgd(1.0)


def take(optimizer, params, gradients) -> Any:
    """Takes a step a gradient; returns parameters and state."""

    def step(carry, gradient):
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), state.saturated

    def run(params, gradients):
        (params, state), saturated = jax.lax.scan(
            step, (params, optimizer.init(params)), gradients
        )
        return params, state, saturated

    return quick.jit(run)(params, gradients)


def total(weight, residual) -> np.ndarray:
    """Weight and residual, in units of the weight; exact."""
    fine = np.asarray(residual, np.float64) * FINENESS[residual.dtype.type]
    return np.asarray(weight, np.float64) + fine


@pytest.mark.parametrize("dtype", DTYPES)
def test_ten_thousand_steps_of_a_ten_thousandth_are_one(dtype):
    n, steps = 1000, 10_000
    params = jnp.zeros(n, jnp.int8).at[: n // 2].set(5)
    gradients = jnp.broadcast_to(jnp.float32(-1e-4), (steps, n))
    after, state, _ = take(with_residual(SGD, dtype=dtype), params, gradients)
    moved = total(after, state.residual) - np.asarray(params)
    fine = FINENESS[dtype]
    if dtype == jnp.float32:
        np.testing.assert_array_equal(after, params + 1)
        np.testing.assert_allclose(moved, 1, atol=1e-4)
        return
    share = 1e-4 / fine % 1  # of steps that are rounded up
    std = fine * np.sqrt(steps * share * (1 - share))
    assert abs(moved.mean() - 1) < 5 * std / np.sqrt(n)
    assert abs(moved.std() / std - 1) < 5 / np.sqrt(2 * n)
    assert np.abs(moved - 1).max() < 5 * std


@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_and_residual_are_the_sum_of_the_steps(dtype):
    """To the bit, for steps that the residual can express, while nothing saturates."""
    steps = jax.random.randint(jax.random.key(0), (50, 300), -2000, 2001) / 256
    start = jnp.zeros(300, jnp.int8)
    after, state, _ = take(with_residual(SGD, dtype=dtype), start, -steps)
    sums = np.cumsum(np.asarray(steps, np.float64), axis=0)
    safe = (np.abs(sums) < 127).all(axis=0)
    assert safe.sum() > 200
    np.testing.assert_array_equal(total(after, state.residual)[safe], sums[-1][safe])
    assert after.dtype == jnp.int8
    assert state.residual.dtype == dtype
    assert np.abs(total(0 * after, state.residual)[safe]).max() <= 0.5


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_saturates_is_counted_and_does_not_wrap_around(dtype):
    start = jnp.array([126, -126, 0, 127], jnp.int8)
    steps = jnp.array([[3.0, -3.0, 1e9, 0.25], [-1.0, 1.0, -1.0, -0.25]])
    after, state, saturated = take(with_residual(SGD, dtype=dtype), start, -steps)
    # A half beyond the end is kept, in the residual.
    kept = total(jnp.zeros(4, jnp.int8), state.residual)
    np.testing.assert_array_equal(saturated, [3, 0])
    np.testing.assert_array_equal(after[3], 127)
    np.testing.assert_allclose(
        total(after, state.residual), [126.5, -126.5, 126.5, 127], atol=1 / 256
    )
    assert np.abs(kept).max() <= 0.5


def test_steps_that_are_not_finite_are_counted_and_not_taken():
    start = jnp.array([1, 2, 3], jnp.int8)
    steps = jnp.array([[jnp.nan, jnp.inf, 1.0]])
    after, _, saturated = take(with_residual(SGD), start, -steps)
    np.testing.assert_array_equal(after, [1, 2, 4])
    np.testing.assert_array_equal(saturated, [2])


@pytest.mark.parametrize("make", [optax.sgd, optax.adamw])
def test_with_units_an_optimiser_does_what_it_does_to_floats(make):
    unit = jnp.linspace(0.01, 0.02, 8)[None]
    whole = jax.random.randint(jax.random.key(1), (5, 8), -50, 51, jnp.int8)
    params = {"q": whole, "scale": unit}
    gradients = jax.random.normal(jax.random.key(2), (20, 5, 8))
    # A gradient for q is that for q s, times s.
    given = {"q": gradients * unit, "scale": jnp.zeros((20, 1, 8))}
    inner = optax.chain(optax.clip_by_global_norm(1.0), make(0.01))
    optimizer = with_residual(
        inner,
        units=lambda params: {"q": params["scale"], "scale": 1.0},
        mask={"q": True, "scale": False},
        dtype=jnp.float32,
    )
    after, state, _ = take(optimizer, params, given)

    plain: Any = whole * unit
    plain_state = inner.init(plain)
    step = quick.jit(inner.update)
    for gradient in gradients:
        updates, plain_state = step(gradient, plain_state, plain)
        plain = optax.apply_updates(plain, updates)
    ours = total(after["q"], state.residual["q"]) * unit
    np.testing.assert_allclose(ours, plain, atol=1e-5)
    np.testing.assert_array_equal(after["scale"], unit)


def test_what_does_not_learn_has_no_state_and_stays():
    params = {
        "w": jnp.ones(3),
        "n": jnp.arange(3),
        "q": jnp.ones(3, jnp.int8),
        "frozen": jnp.ones(3, jnp.int8),
    }
    mask = {"w": True, "n": True, "q": True, "frozen": False}
    optimizer = with_residual(optax.adamw(0.5), mask=mask)
    state: Any = optimizer.init(params)
    assert sum(x.size for x in jax.tree.leaves(state.inner)) == 2 * (3 + 3) + 1
    assert len(jax.tree.leaves(state.residual)) == 1
    grads = {"w": jnp.ones(3), "n": None, "q": jnp.ones(3), "frozen": None}
    updates, _ = optimizer.update(grads, state, params)
    moved: Any = optax.apply_updates(params, updates)
    for name in ("n", "frozen"):
        np.testing.assert_array_equal(moved[name], params[name])
        assert moved[name].dtype == params[name].dtype
    assert (moved["w"] < 1).all()


def test_rounding_is_unbiased_on_both_sides():
    n = 100_000
    for x in (0.3, -0.3, 1.7, 2e-3, -2e-3, 0.0, -5.0):
        rounded = np.asarray(residuals._rounded(jnp.full(n, x), jax.random.key(5)))
        share = abs(x) % 1
        error = 5 * np.sqrt(share * (1 - share) / n)
        assert abs(rounded.mean() - x) <= error + 1e-7


def test_two_bytes_a_weight():
    params = jnp.zeros((64, 64), jnp.int8)
    state = with_residual(SGD).init(params)
    held = sum(x.nbytes for x in jax.tree.leaves((params, state)))
    assert held <= 2 * params.size + 8


def test_shorter_floats_are_refused():
    with pytest.raises(ValueError, match="int8, int16 or float32"):
        with_residual(SGD, dtype=jnp.float16)


def test_it_needs_the_parameters():
    optimizer = with_residual(SGD)
    params = jnp.zeros(2, jnp.int8)
    with pytest.raises(ValueError, match="needs update"):
        optimizer.update(jnp.ones(2), optimizer.init(params))
