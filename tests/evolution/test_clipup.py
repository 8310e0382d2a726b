"""ClipUp against its formula, and as a citizen of optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick

import eggroll
from eggroll import clipup


PARAMS = {"w": jnp.zeros((4, 3)), "b": jnp.zeros(5)}


def gradients(steps, seed=0):
    random = np.random.default_rng(seed)
    sizes = 10.0 ** random.uniform(-6, 6, steps)
    return [
        {k: jnp.float32(size * random.normal(size=x.shape)) for k, x in PARAMS.items()}
        for size in sizes
    ]


def moves(optimizer, grads, params=PARAMS):
    """The updates that an optimiser makes of some gradients, one after the other."""
    state, made = optimizer.init(params), []
    update = quick.jit(optimizer.update)
    for one in grads:
        updates, state = update(one, state, params)
        made.append(updates)
    return made


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def formula(grads, rates, momentum, speeds):
    """The velocities of the paper's algorithm 1, in float64."""
    velocity, made = 0.0, []
    for gradient, rate, speed in zip(grads, rates, speeds, strict=True):
        g = flat(gradient).astype(np.float64)
        velocity = momentum * velocity + rate * g / np.linalg.norm(g)
        length = np.linalg.norm(velocity)
        velocity = velocity * speed / length if length > speed else velocity
        made.append(velocity)
    return made


@pytest.mark.parametrize(
    ("settings", "momentum", "speed"),
    [
        ({}, 0.9, 0.2),
        ({"momentum": 0.5, "max_speed": 0.12}, 0.5, 0.12),
        ({"momentum": 0.0}, 0.0, 0.2),
        ({"max_speed": 100.0}, 0.9, 100.0),
        ({"max_speed": 0.01}, 0.9, 0.01),
    ],
)
def test_updates_are_minus_the_velocity_of_the_paper(settings, momentum, speed):
    grads = gradients(12)
    expected = formula(grads, [0.1] * 12, momentum, [speed] * 12)
    for updates, velocity in zip(
        moves(clipup(0.1, **settings), grads), expected, strict=True
    ):
        np.testing.assert_allclose(flat(updates), -velocity, rtol=1e-4, atol=1e-7)


def test_along_one_direction_steps_grow_to_twice_the_learning_rate_and_no_further():
    (gradient,) = gradients(1)
    lengths = [np.linalg.norm(flat(u)) for u in moves(clipup(0.1), [gradient] * 5)]
    np.testing.assert_allclose(lengths, [0.1, 0.19, 0.2, 0.2, 0.2], rtol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 3e38])
def test_steps_do_not_depend_on_the_size_of_gradients(size):
    grads = gradients(1)
    largest = np.abs(flat(grads)).max()
    scaled = jax.tree.map(lambda x: x / largest * size, grads)
    expected = flat(moves(clipup(0.1), grads))
    np.testing.assert_allclose(flat(moves(clipup(0.1), scaled)), expected, rtol=1e-4)


def test_a_gradient_that_is_no_number_is_not_hidden():
    """So that `apply_if_finite` can tell."""
    for wrong in (jnp.nan, jnp.inf):
        (updates,) = moves(clipup(0.1), [{**PARAMS, "b": jnp.full(5, wrong)}])
        assert not np.isfinite(flat(updates)).all()


def test_a_gradient_of_zero_leaves_the_velocity_to_itself():
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    still, first, second = moves(clipup(0.1), [zero, *gradients(1), zero])
    np.testing.assert_array_equal(flat(still), 0.0)
    np.testing.assert_allclose(flat(second), 0.9 * flat(first), rtol=1e-6)


def test_steps_go_down_in_loss():
    optimizer = optax.chain(clipup(0.05))
    params = {"x": jnp.array([3.0, -4.0])}
    state = optimizer.init(params)
    loss = lambda p: jnp.sum(p["x"] ** 2)
    for _ in range(100):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    assert float(loss(params)) < 0.1


def test_a_population_descends_whatever_the_units_of_its_fitness():
    """`shaping.none` has gradients in the units of the loss; ClipUp does not mind."""
    es = eggroll.EvolutionStrategy(64, sigma=0.1, shaping=eggroll.shaping.none)
    optimizer, target = clipup(0.1), jnp.array([1.0, -2.0, 0.5])

    def distance(unit):
        run = es.value_and_grad(loss=lambda p: unit * jnp.sum((p - target) ** 2))

        def step(carry, key):
            params, state = carry
            _, grads = run(params, key)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        start = jnp.zeros(3), optimizer.init(jnp.zeros(3))
        keys = jax.random.split(jax.random.key(0), 60)
        (params, _), _ = jax.lax.scan(step, start, keys)
        return jnp.linalg.norm(params - target)

    found = quick.jit(jax.vmap(distance))(jnp.array([1e-6, 1.0, 1e6]))
    np.testing.assert_array_less(found, 0.3)


# --- As a citizen of optax


def test_the_learning_rate_and_the_speed_may_be_schedules():
    rate = optax.linear_schedule(0.1, 0.02, 8)
    speed = optax.linear_schedule(0.15, 0.3, 8)
    grads = gradients(10)
    rates, speeds = ([float(f(t)) for t in range(10)] for f in (rate, speed))
    for settings, limits in [
        ({}, [2 * x for x in rates]),
        ({"max_speed": speed}, speeds),
    ]:
        expected = formula(grads, rates, 0.9, limits)
        found = moves(clipup(rate, **settings), grads)
        np.testing.assert_allclose(
            [flat(x) for x in found], -np.array(expected), rtol=1e-4, atol=1e-7
        )


def test_hyper_parameters_can_be_injected_and_changed():
    optimizer = optax.inject_hyperparams(clipup)(learning_rate=0.1, momentum=0.0)
    (gradient,) = gradients(1)
    state = optimizer.init(PARAMS)
    lengths = []
    for rate in (0.1, 0.4, 0.0):
        state.hyperparams["learning_rate"] = jnp.float32(rate)
        updates, state = jax.jit(optimizer.update)(gradient, state, PARAMS)
        lengths.append(np.linalg.norm(flat(updates)))
    np.testing.assert_allclose(lengths, [0.1, 0.4, 0.0], rtol=1e-5)


def test_hyper_parameters_can_be_mapped_over():
    (gradient,) = gradients(1)

    def length(rate, momentum):
        optimizer = clipup(rate, momentum)
        updates, _ = optimizer.update(gradient, optimizer.init(PARAMS))
        return optax.tree.norm(updates)

    found = jax.vmap(length)(jnp.array([0.1, 0.2]), jnp.array([0.9, 0.5]))
    np.testing.assert_allclose(found, [0.1, 0.2], rtol=1e-5)


def test_masked_leaves_have_no_part_in_the_length():
    (gradient,) = gradients(1)
    masked = optax.masked(clipup(0.1), {"w": True, "b": False})
    (updates,) = moves(masked, [gradient])
    (expected,) = moves(clipup(0.1), [{"w": gradient["w"]}], {"w": PARAMS["w"]})
    np.testing.assert_allclose(updates["w"], expected["w"], rtol=1e-6)
    np.testing.assert_array_equal(updates["b"], gradient["b"])  # as optax has it


@pytest.mark.parametrize(
    "params", [{**PARAMS, "n": None}, {**PARAMS, "n": jnp.ones(2)}]
)
def test_leaves_without_a_gradient_stay_where_they_are(params):
    (gradient,) = gradients(1)
    (expected,) = moves(clipup(0.1), [gradient])
    for updates in moves(clipup(0.1), [{**gradient, "n": None}] * 2, params)[:1]:
        assert updates.pop("n") is None
        np.testing.assert_allclose(flat(updates), flat(expected), rtol=1e-6)


def test_whole_numbers_stay_where_they_are():
    params = {"w": jnp.zeros(2), "n": jnp.arange(3)}
    grads = {"w": jnp.ones(2), "n": jnp.zeros(3, int)}
    (updates,) = moves(clipup(0.1), [grads], params)
    moved = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(moved["n"], params["n"])
    assert updates["n"].dtype == params["n"].dtype


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_the_velocity_is_kept_in_float32_and_handed_on_in_the_gradients_type(dtype):
    optimizer = clipup(0.1)
    params = jnp.zeros(4, dtype)
    updates, state = optimizer.update(jnp.ones(4, dtype), optimizer.init(params))
    assert updates.dtype == dtype
    np.testing.assert_allclose(state.velocity, np.full(4, 0.05), rtol=1e-6)
    assert state.velocity.dtype == jnp.float32


def test_its_state_can_be_carried_by_a_loop():
    wrapped = optax.MultiSteps(optax.apply_if_finite(clipup(0.1), 3), 2)
    params = jnp.zeros(3, jnp.bfloat16)

    def step(carry, grads):
        params, state = carry
        updates, state = wrapped.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    grads = jnp.ones((6, 3), jnp.bfloat16)
    (moved, _), _ = quick.jit(jax.lax.scan, static_argnums=0)(
        step, (params, wrapped.init(params)), grads
    )
    length = float(jnp.linalg.norm(moved.astype(jnp.float32)))
    assert length == pytest.approx(0.1 + 0.19 + 0.2, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"learning_rate": -0.1},
            "learning_rate must be a number, at least 0, got -0.1",
        ),
        ({"learning_rate": float("nan")}, "learning_rate must be .* got nan"),
        ({"learning_rate": "0.1"}, "learning_rate must be .* got '0.1'"),
        ({"momentum": 1.0}, r"momentum must be a number from 0, below 1, got 1\.0"),
        ({"max_speed": 0.0}, r"max_speed must be a positive number, got 0\.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        clipup(**{"learning_rate": 0.1, **settings})
