"""Fitness of any size and type is learnt from as it is, and what cannot be is told."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eggroll
from eggroll import EvolutionStrategy, shaping


KEY = jax.random.key(0)
N = 64
W = {"w": jnp.ones((5, 4))}
FITNESS = np.random.default_rng(0).normal(size=N)
SHAPINGS = {
    "zscore": shaping.zscore,
    "centred_rank": shaping.centred_rank,
    "pair_sign": shaping.pair_sign,
    "groups": shaping.groups(8),
    "groups, own spread": shaping.groups(8, spread="group"),
}
each_shaping = pytest.mark.parametrize("shape", SHAPINGS.values(), ids=SHAPINGS)


def strategy(**settings):
    return EvolutionStrategy(**{"population": N, "sigma": 0.1, **settings})


def sums(params, x=None):
    return jnp.sum(params["w"])


GENERATION = strategy().ask(sums)(W, KEY)[1]


def gradient(fitness, es=None, **settings):
    return np.asarray((es or strategy(**settings)).gradient(GENERATION, fitness)["w"])


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


# --- Scale and offset


@each_shaping
@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e10, 1e30])
def test_scale_changes_nothing(shape, where, scale):
    place = np.asarray if where == "host" else lambda f: jnp.asarray(f, jnp.float32)
    expected = gradient(place(FITNESS), shaping=shape)
    close(gradient(place(scale * FITNESS), shaping=shape), expected)
    offset = place(scale * (FITNESS + 3))
    close(gradient(offset, shaping=shape), expected, 1e-4)


@each_shaping
@pytest.mark.parametrize("offset", [2.0**30, -(2.0**40)])
def test_an_offset_changes_nothing_for_what_is_scored_on_the_host(shape, offset):
    whole = np.round(100 * FITNESS)  # exact in float64, whatever the offset
    close(gradient(whole + offset, shaping=shape), gradient(whole, shaping=shape))


def test_whole_numbers_on_the_host_keep_their_differences():
    ordered = [2**40 + i for i in range(N)]
    close(gradient(ordered), gradient(np.arange(N)))
    unshaped = {"shaping": shaping.none}
    close(gradient(ordered, **unshaped), gradient(np.arange(N), **unshaped))


@each_shaping
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint32])
def test_whole_numbers_on_the_device_keep_their_differences(shape, dtype):
    whole = np.arange(N)[::-1] ** 2
    large = jnp.asarray(whole + 2**30, dtype)
    close(gradient(large, shaping=shape), gradient(whole, shaping=shape))


def test_unshaped_whole_numbers_keep_their_differences():
    es, whole = strategy(shaping=shaping.none), np.arange(N)[::-1]
    close(gradient(jnp.asarray(whole + 2**30), es), gradient(whole, es))
    ends = jnp.asarray(np.where(whole % 2, 2**31 - 1, -(2**31)), jnp.int32)
    close(gradient(ends, es), gradient(np.asarray(ends, np.float64), es))


@pytest.mark.parametrize("bad", [-1e3, -1e18, -1e21, -3e38])
@pytest.mark.parametrize("where", [np.asarray, lambda f: jnp.asarray(f, jnp.float32)])
def test_one_far_off_fitness_outweighs_the_rest_and_does_not_silence_them(where, bad):
    fitness = FITNESS.copy()
    fitness[17] = bad
    exact = (fitness - fitness.mean()) / fitness.std()
    expected = gradient(exact, shaping=shaping.none)
    close(gradient(where(fitness)), expected, 1e-4)
    assert np.abs(expected).max() > 1


@pytest.mark.parametrize("antithetic", [True, False])
def test_finite_fitness_makes_finite_gradients(antithetic):
    es = strategy(shaping=shaping.none, antithetic=antithetic)
    generation = es.ask(sums)(W, KEY)[1]
    for size in (3e38, 1e-30):
        signs = np.where(FITNESS > 0, size, -size)
        for fitness in (jnp.asarray(signs, jnp.float32), signs):
            grads = es.gradient(generation, fitness)["w"]
            assert np.isfinite(grads).all()
            expected = np.float64(es.gradient(generation, signs / size)["w"])
            limit = np.finfo(np.float32).max
            close(np.clip(expected * size, -limit, limit), np.asarray(grads))


def test_the_range_of_the_host_is_wider_than_that_of_the_gradient():
    assert np.isfinite(gradient(1e300 * FITNESS, shaping=shaping.none)).all()
    close(gradient(1e300 * FITNESS), gradient(FITNESS))


# --- Precision of the function


def test_64_bit_losses_keep_their_differences():
    with jax.enable_x64(True):
        params = {"w": jnp.ones(4)}
        es = strategy(population=1024, sigma=1e-4, shaping=shaping.none)
        run = jax.jit(es.value_and_grad(loss=lambda p, b: jnp.sum(p["w"] ** 2) + b))
        value, grads = run(params, KEY, 1e6)
        _, without_offset = run(params, KEY, 0.0)
        assert value.dtype == grads["w"].dtype == jnp.float64
        # 1e-10 of the offset is lost, of differences of 1e-4
        close(grads["w"], without_offset["w"], 1e-4)
        assert np.all(np.abs(np.asarray(grads["w"]) - 2) < 1)


def test_the_value_is_in_the_precision_of_the_function():
    with jax.enable_x64(True):
        run = strategy().value_and_grad(loss=lambda p: sums(p) * 0 + 1 + 2.0**-40)
        assert jax.jit(run)(jax.tree.map(jnp.float64, W), KEY)[0] == 1 + 2.0**-40
    short = strategy().value_and_grad(lambda p: jnp.sum(p["w"]).astype(jnp.bfloat16))
    assert jax.jit(short)(W, KEY)[0].dtype == jnp.bfloat16


def test_the_value_of_large_losses_does_not_overflow():
    run = strategy().value_and_grad(loss=lambda p: 3e38 + 0 * sums(p))
    assert np.isclose(run(W, KEY)[0], 3e38)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.bool_])
def test_a_loss_may_be_a_whole_number(dtype):
    count = lambda p: (jnp.sum(p["w"] > 1.0)).astype(dtype)
    as_float = lambda p: count(p).astype(jnp.float32)
    value, grads = strategy().value_and_grad(loss=count)(W, KEY)
    expected, slope = strategy().value_and_grad(loss=as_float)(W, KEY)
    close(value, np.asarray(expected))
    close(grads["w"], np.asarray(slope["w"]))


def test_a_complex_fitness_is_refused():
    with pytest.raises(ValueError, match="must be a real number, got a complex one"):
        strategy().value_and_grad(fitness=lambda p: sums(p) * 1j)(W, KEY)


def test_fitness_may_be_a_list_of_anything_that_is_a_number():
    expected = gradient(np.float32(FITNESS))
    for values in (
        [float(np.float32(f)) for f in FITNESS],
        [np.float32(f) for f in FITNESS],
        [jnp.float32(f) for f in FITNESS],
        tuple(np.float32(FITNESS).tolist()),
    ):
        close(gradient(values), expected)


def test_fitness_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="one fitness a member, each a number"):
        gradient(["good"] * N)


def test_host_fitness_may_meet_a_generation_inside_jit():
    whole = np.round(100 * FITNESS)
    compiled = jax.jit(lambda g: strategy().gradient(g, whole + 2.0**40))
    close(compiled(GENERATION)["w"], gradient(whole))


# --- Generations from which nothing can be learnt


@pytest.fixture
def uncached():
    """Without a persistent cache of compiled programs, which bars callbacks."""
    directory = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", directory)


def finished(run, *args, **options):
    result = jax.block_until_ready(run(W, KEY, *args, **options))
    jax.effects_barrier()
    return result


UNUSABLE = {
    "all failed": np.full(N, np.nan),
    "one of each pair": np.where(np.arange(N) % 2, 1.0, np.inf),
}
each_unusable = pytest.mark.parametrize("fitness", UNUSABLE.values(), ids=UNUSABLE)


@each_unusable
def test_an_unusable_generation_is_a_zero_gradient_and_a_warning(fitness):
    with pytest.warns(RuntimeWarning, match="nothing can be learnt from a generation"):
        grads = gradient(fitness)
    np.testing.assert_array_equal(grads, 0)


@each_unusable
@pytest.mark.parametrize("compiled", [False, True])
def test_an_unusable_generation_has_the_value_nan(fitness, compiled, uncached):
    score = lambda params, f: f + 0 * sums(params)
    run = strategy().value_and_grad(fitness=score, in_axes=0)
    run = jax.jit(run) if compiled else run
    with pytest.warns(RuntimeWarning, match="nothing can be learnt from a generation"):
        value, grads = finished(run, jnp.asarray(fitness))
    assert np.isnan(value)
    np.testing.assert_array_equal(grads["w"], 0)


def test_without_pairs_one_finite_fitness_is_enough_for_a_value():
    score = lambda params, f: f + 0 * sums(params)
    run = strategy(antithetic=False).value_and_grad(fitness=score, in_axes=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, _ = run(W, KEY, jnp.asarray(UNUSABLE["one of each pair"]))
    assert value == 1.0


# --- Sigma on a schedule


@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_at_sigma_zero_is_a_zero_gradient_and_a_warning(compiled, uncached):
    es = strategy(sigma=lambda step: 0.1 - 0.05 * step)
    run = es.value_and_grad(fitness=sums)
    run = jax.jit(run) if compiled else run
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.any(run(W, KEY, step=1)[1]["w"])
    with pytest.warns(RuntimeWarning, match="sigma is zero, negative or not finite"):
        value, grads = finished(run, step=2)
    assert value == sums(W)
    np.testing.assert_array_equal(grads["w"], 0)


@pytest.mark.parametrize("sigma", [-0.1, np.nan, np.inf])
def test_a_schedule_that_starts_wrongly_is_refused_when_it_is_made(sigma):
    with pytest.raises(
        ValueError, match=rf"positive and finite, got {sigma} at step 0"
    ):
        strategy(sigma=lambda step: sigma)


@pytest.mark.parametrize("sigma", [-0.1, np.nan, np.inf])
def test_a_schedule_that_goes_wrong_is_refused_when_it_does(sigma):
    run = strategy(sigma=lambda step: sigma if step else 0.1).value_and_grad(
        fitness=sums
    )
    run(W, KEY, step=0)
    with pytest.raises(
        ValueError, match=rf"positive and finite, got {sigma} at step 1"
    ):
        run(W, KEY, step=1)


@pytest.mark.parametrize("sigma", [-0.1, np.nan, np.inf])
def test_a_schedule_that_goes_wrong_where_it_cannot_be_seen_moves_nothing(sigma):
    es = strategy(sigma=lambda step: jnp.where(step > 0, sigma, 0.1))
    _, grads = jax.jit(es.value_and_grad(fitness=sums))(W, KEY, step=1)
    np.testing.assert_array_equal(grads["w"], 0)


def test_coefficients_of_a_pair_are_differences():
    # members 2p and 2p+1 mirror each other, so that equal weights cancel
    weights = np.repeat(FITNESS[::2], 2)
    np.testing.assert_array_equal(strategy().combine(GENERATION, weights)["w"], 0)
    assert eggroll.shaping.usable(weights, antithetic=True).all()
