"""How a population is asked and told: the interface of `EvolutionStrategy`."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxprs
import numpy as np
import optax
import pytest
import quick

import eggroll
from eggroll import EvolutionStrategy, shaping
from eggroll.evolution.tracing import trace


KEY = jax.random.key(0)
PARAMS = {"w": jnp.arange(12.0).reshape(4, 3) / 12, "b": jnp.ones(3)}
X = jnp.linspace(-1, 1, 20).reshape(5, 4)
N = 14


def strategy(**settings):
    return EvolutionStrategy(**{"population": N, "sigma": 0.1, **settings})


def forward(params, x):
    return jnp.tanh(x @ params["w"] + params["b"])


def fitness(params, x):
    return -jnp.mean(forward(params, x) ** 2)


# Compiled once for the tests that have no settings of their own.
ask = quick.jit(strategy().ask(fitness))
value_and_grad = quick.jit(strategy().value_and_grad(fitness=fitness))
gradient = quick.jit(strategy().gradient)


def close(a, b, **tolerance):
    tolerance = {"rtol": 1e-5, "atol": 1e-6, **tolerance}
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


# --- value_and_grad


def test_value_and_grad_is_ask_and_tell():
    outputs, generation = quick.jit(strategy().ask(forward))(PARAMS, KEY, X, step=3)
    scores = -np.mean(np.asarray(outputs) ** 2, axis=(1, 2))  # scored outside JAX
    grads = strategy().gradient(generation, scores)
    _, expected = value_and_grad(PARAMS, KEY, X, step=3)
    close(grads, expected, rtol=1e-4, atol=1e-5)


def test_loss_is_minus_fitness():
    loss = lambda params, x: -fitness(params, x)
    value, grads = quick.jit(strategy().value_and_grad(loss=loss))(PARAMS, KEY, X)
    expected_value, expected = value_and_grad(PARAMS, KEY, X)
    close(value, -expected_value)
    close(grads, expected)


def test_following_the_gradient_improves_the_mean():
    es, optimizer = strategy(population=64), optax.adam(0.05)
    run = es.value_and_grad(fitness=fitness)

    def step(carry, i):
        params, state = carry
        value, grads = run(params, KEY, X, step=i)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    start = (PARAMS, optimizer.init(PARAMS))
    train = quick.jit(lambda: jax.lax.scan(step, start, jnp.arange(50)))
    (params, _), _ = train()
    assert fitness(params, X) > 0.1 * fitness(PARAMS, X)


# --- Chunks


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("chunk", [1, 6, 7])
def test_chunks_change_nothing_but_rounding(chunk, antithetic):
    rows = jnp.linspace(0, 1, N * 4).reshape(N, 4)

    def run(chunk):
        es = strategy(chunk_size=chunk, antithetic=antithetic)
        score = lambda params, x: jnp.sum(forward(params, x))
        (outputs, generation) = es.ask(score, in_axes=0)(PARAMS, KEY, rows)
        return outputs, es.gradient(generation, outputs)

    whole, parts = quick.jit(lambda: run(None))(), quick.jit(lambda: run(chunk))()
    close(parts, whole, rtol=1e-4)


def test_chunks_are_planned_from_memory():
    tight, roomy = strategy(memory_bytes=1), strategy(memory_bytes=2**40)
    traced = trace(fitness, PARAMS, (X,), None, N)
    generation = jax.eval_shape(roomy.ask(fitness), PARAMS, KEY, X)[1]
    assert tight._evaluation_chunk(traced, generation.layouts) == 1
    assert roomy._evaluation_chunk(traced, generation.layouts) >= N


# --- What members read


def identity(params, x):
    return x + 0 * jnp.sum(params["b"])


IN_AXES = {
    "shared": (None, jnp.arange(3.0), lambda i: jnp.arange(3.0)),
    "a row a member": (0, jnp.arange(N), lambda i: i),
    "a row a group": (0, jnp.arange(2), lambda i: i // 7),
    "one row": (0, jnp.arange(1), lambda i: 0),
    "a prefix of a tree": (
        ({"own": 0, "shared": None},),
        {"own": jnp.arange(N), "shared": {"deep": jnp.arange(2)}},
        lambda i: {"own": i, "shared": {"deep": jnp.arange(2)}},
    ),
}


@pytest.mark.parametrize("case", IN_AXES.values(), ids=IN_AXES.keys())
def test_members_read_what_in_axes_says(case):
    in_axes, x, expected = case
    read = lambda params, x: jax.tree.map(lambda x: identity(params, x), x)
    outputs, _ = quick.jit(strategy(chunk_size=4).ask(read, in_axes=in_axes))(
        PARAMS, KEY, x
    )
    rows = [expected(i) for i in range(N)]
    close(outputs, jax.tree.map(lambda *x: np.stack(x), *rows))


def test_a_key_of_its_own_for_each_pair_and_step():
    draw = lambda params, key: jax.random.uniform(key) + 0 * jnp.sum(params["b"])
    run = quick.jit(strategy(noise_reuse=4).ask(draw))
    now, later = (np.asarray(run(PARAMS, KEY, step=s)[0]) for s in (0, 1))
    np.testing.assert_array_equal(now[0::2], now[1::2])
    assert len({*now.tolist(), *later.tolist()}) == N


def test_without_pairs_a_key_of_its_own_for_each_member():
    draw = lambda params, key: jax.random.uniform(key) + 0 * jnp.sum(params["b"])
    outputs, _ = quick.jit(strategy(antithetic=False).ask(draw))(PARAMS, KEY)
    assert len(set(outputs.tolist())) == N


def test_a_key_that_is_passed_is_an_argument_like_any_other():
    draw = lambda params, key: jax.random.uniform(key) + 0 * jnp.sum(params["b"])
    outputs, _ = quick.jit(strategy().ask(draw))(PARAMS, KEY, jax.random.key(5))
    np.testing.assert_allclose(outputs, jax.random.uniform(jax.random.key(5)))


# --- Step, reuse, schedules


def test_step_and_reuse_decide_which_noise_is_drawn():
    run = quick.jit(strategy(noise_reuse=2).ask(fitness))
    outputs = [np.asarray(run(PARAMS, KEY, X, step=s)[0]) for s in range(4)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[2], outputs[3])
    assert np.any(outputs[1] != outputs[2])


def test_sigma_may_follow_a_schedule():
    schedule = optax.linear_schedule(0.2, 0.1, transition_steps=10)
    moving, fixed = (
        strategy(sigma=schedule, noise_reuse=100),
        strategy(sigma=0.1, noise_reuse=100),
    )
    close(
        quick.jit(moving.value_and_grad(fitness=fitness))(PARAMS, KEY, X, step=10),
        quick.jit(fixed.value_and_grad(fitness=fitness))(PARAMS, KEY, X, step=0),
    )


def test_it_is_traced_once_however_often_it_is_called():
    traces = []

    def counted(params, x):
        traces.append(1)
        return fitness(params, x)

    run = quick.jit(strategy(chunk_size=4).value_and_grad(fitness=counted))
    for step in range(3):
        run(PARAMS, jax.random.key(step), X + step, step=step)
    assert len(traces) == 1


# --- Members that failed


def test_failed_members_count_for_nothing():
    outputs, generation = ask(PARAMS, KEY, X)
    unshaped = quick.jit(strategy(shaping=shaping.none).gradient)
    for bad in (jnp.nan, jnp.inf):
        grads = unshaped(generation, outputs.at[3].set(bad))
        close(grads, unshaped(generation, outputs.at[2:4].set(0.0)))


def test_a_population_that_failed_gives_no_gradient_and_no_value():
    fails = lambda params, x: jnp.sum(params["b"]) * jnp.nan
    run = strategy().value_and_grad(fitness=fails, value="mean")
    value, grads = quick.jit(run)(PARAMS, KEY, X)
    assert np.isnan(value)
    assert not any(np.any(g) for g in jax.tree.leaves(grads))


# --- Kinds of parameters


def test_gradients_are_like_the_parameters():
    params = {
        "half": jnp.ones((4, 3), jnp.bfloat16),
        "whole": jnp.arange(3),
        "vector": jnp.ones(3),
        "none": None,
    }
    use = lambda p: jnp.sum(jnp.ones(4) @ p["half"] * p["whole"] + p["vector"])
    es = strategy(rules={"vector": eggroll.frozen})
    _, grads = quick.jit(es.value_and_grad(fitness=use))(params, KEY)
    assert grads["half"].dtype == jnp.bfloat16
    assert np.any(grads["half"])
    assert grads["whole"] is None
    assert not np.any(grads["vector"])
    wide = dataclasses.replace(es, gradient_dtype=jnp.float32)
    _, exact = quick.jit(wide.value_and_grad(fitness=use))(params, KEY)
    assert exact["half"].dtype == jnp.float32
    close(grads["half"], exact["half"].astype(jnp.bfloat16))


def test_an_equinox_module_with_functions_among_its_leaves():
    model = eqx.nn.MLP(4, 1, 0, 0, key=KEY)
    loss = lambda model, x: jnp.mean(jax.vmap(model)(x) ** 2)

    @eqx.filter_jit
    def losses(model):
        _, grads = strategy().value_and_grad(loss=loss)(model, KEY, X)
        assert grads.activation is None
        step = jax.tree.map(lambda g: -0.003 * g, grads)
        return loss(model, X), loss(eqx.apply_updates(model, step), X)

    before, after = losses(model)
    assert after < before


def test_leaves_of_every_kind_get_the_weighted_sum_of_their_perturbations():
    params = {
        "stack": jnp.ones((2, 3, 4)),
        "kernel": jnp.ones((3, 4, 5)),
        "table": jnp.ones((9, 4)),
        "number": jnp.float32(2),
    }

    def use(p):
        h = p["table"][jnp.arange(6)] * p["number"]
        h = jax.lax.scan(lambda h, w: (h + jnp.ones(3) @ w, 0), h, p["stack"])[0]
        return jnp.sum(jax.lax.conv(h.T[None], p["kernel"].T, (1,), "SAME"))

    es = strategy(noise="gaussian", rank=2)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=N), jnp.float32)

    @quick.jit
    def run():
        _, generation = es.ask(use)(params, KEY)
        members = jax.vmap(lambda i: es.member(generation, params, i))(jnp.arange(N))
        return members, es.combine(generation, weights)

    members, grads = run()
    for k, mean in params.items():
        total = np.tensordot(weights, members[k] - np.asarray(mean), 1)
        expected = -total / (N * 0.1**2)
        np.testing.assert_allclose(grads[k], expected, rtol=1e-3, atol=1e-3)
    moved = members["stack"] - params["stack"]
    assert np.linalg.matrix_rank(moved, rtol=1e-3).max() == 2


def test_parameters_that_are_one_array():
    run = quick.jit(strategy().value_and_grad(fitness=lambda w: jnp.sum(w**2)))
    assert run(jnp.ones(3), KEY)[1].shape == (3,)


def test_python_floats_are_parameters_and_other_values_are_not():
    use = lambda p, x: jnp.sum(x @ p["w"] * p["scale"]) if p["flag"] else None
    params = {"w": PARAMS["w"], "scale": 2.0, "flag": True, "name": "a"}
    es = strategy()
    scores, generation = es.ask(use)(params, KEY, X)
    grads, one = es.gradient(generation, scores), es.member(generation, params, 0)
    assert grads["scale"].shape == ()
    assert grads["scale"] != 0
    assert (grads["flag"], grads["name"]) == (None, None)
    assert (one["flag"], one["name"]) == (True, "a")
    assert abs(one["scale"] - 2) == pytest.approx(es.sigma, rel=1e-5)


def test_64_bit_parameters_stay_64_bit():
    with jax.enable_x64(True):
        params = {"w": jnp.ones((4, 3), jnp.float64)}
        use = lambda p: jnp.sum(jnp.ones(4) @ p["w"])
        value, grads = quick.jit(strategy(chunk_size=4).value_and_grad(fitness=use))(
            params, KEY
        )
        assert grads["w"].dtype == jnp.float64
        assert np.isfinite(value)


# --- member and Generation


def test_a_member_is_what_was_evaluated():
    outputs, generation = ask(PARAMS, KEY, X)
    for i in (0, 1, N - 1):
        close(fitness(strategy().member(generation, PARAMS, i), X), outputs[i])


def test_a_member_keeps_what_is_frozen_and_comes_from_numpy_too():
    params = {"w": np.ones((4, 3), np.float32), "shift": np.arange(3)}
    use = lambda p: jnp.ones(4) @ p["w"] + p["shift"]
    _, generation = quick.jit(lambda: strategy().ask(use)(params, KEY))()
    one = strategy().member(generation, params, 1)
    np.testing.assert_array_equal(one["shift"], params["shift"])
    assert np.all(one["w"] != params["w"])


def test_a_member_that_is_not_in_the_population_is_refused():
    _, generation = ask(PARAMS, KEY, X)
    for index in (-1, N):
        with pytest.raises(ValueError, match=f"whole number from 0 to 13, got {index}"):
            strategy().member(generation, PARAMS, index)


def test_a_generation_leaves_and_enters_jit():
    outputs, generation = ask(PARAMS, KEY, X, step=7)
    close(gradient(generation, outputs), value_and_grad(PARAMS, KEY, X, step=7)[1])
    assert int(generation.step) == 7


def test_a_strategy_can_be_changed_by_dataclasses_replace():
    assert dataclasses.replace(strategy(), rank=4).rank == 4


# --- What stands where `jax.value_and_grad` stood


def test_python_values_reach_the_function_as_they_are():
    def use(params, x, train, *, scale, mode="mean"):
        assert train is True
        assert mode == "sum"
        assert type(scale) is float
        return scale * fitness(params, x)

    run = strategy().value_and_grad(fitness=use)
    value, _ = run(PARAMS, KEY, X, True, scale=2.0, mode="sum")
    close(value, 2 * value_and_grad(PARAMS, KEY, X)[0])


def test_arrays_may_be_given_by_name():
    run = quick.jit(
        strategy().value_and_grad(fitness=lambda params, *, x: fitness(params, x))
    )
    close(run(PARAMS, KEY, x=X), value_and_grad(PARAMS, KEY, X))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_a_key_that_is_bound_is_respected(wrap):
    draw = lambda params, key: jax.random.uniform(key) + 0 * jnp.sum(params["b"])
    bound = wrap(functools.partial(draw, key=jax.random.key(5)))
    outputs, _ = strategy().ask(bound)(PARAMS, KEY)
    np.testing.assert_allclose(outputs, jax.random.uniform(jax.random.key(5)))


def test_a_key_with_a_default_is_left_open():
    draw = lambda params, key=None: jax.random.uniform(key) + 0 * jnp.sum(params["b"])
    assert len(set(strategy().ask(draw)(PARAMS, KEY)[0].tolist())) == N // 2


def test_strategies_with_the_same_settings_are_the_same_static_argument():
    traces = []

    @functools.partial(jax.jit, static_argnames="es")
    def run(es):
        traces.append(es)
        return es.value_and_grad(fitness=fitness)(PARAMS, KEY, X)

    settings = {"rules": {"b": eggroll.frozen}, "shaping": shaping.groups(7)}
    for rules in (settings, {**settings, "shaping": shaping.groups(7)}):
        run(es=strategy(**rules))
    assert len(traces) == 1
    run(es=strategy(**{**settings, "rules": {"b": eggroll.full_rank()}}))
    assert len(traces) == 2


# --- Leaves that must stay where they are


def test_adamw_moves_neither_frozen_nor_whole_numbers_when_masked():
    params = {"w": jnp.ones((4, 3)), "still": jnp.ones(3), "table": jnp.arange(3)}
    use = lambda p: jnp.sum(jnp.ones(4) @ p["w"] * p["still"] + p["table"])
    es = strategy(rules={"still": eggroll.frozen})
    mask = eggroll.trainable(params, es.rules)
    assert mask == {"w": True, "still": False, "table": False}
    decay = optax.adamw(0.1, weight_decay=0.5)
    optimizer, state = optax.masked(decay, mask), None
    state = optimizer.init(params)
    moved = params
    for step in range(3):
        grads = es.value_and_grad(fitness=use)(moved, KEY, step=step)[1]
        updates, state = optimizer.update(grads, state, moved)
        moved = eqx.apply_updates(moved, updates)  # which knows None
    assert np.all(moved["w"] != params["w"])
    np.testing.assert_array_equal(moved["still"], params["still"])
    np.testing.assert_array_equal(moved["table"], params["table"])
    assert moved["table"].dtype == params["table"].dtype


def test_a_mask_for_a_pattern_that_matches_no_leaf_is_refused():
    with pytest.raises(ValueError, match="'shtill' matches no leaf; there are: b, w"):
        eggroll.trainable(PARAMS, {"shtill": eggroll.frozen})


def test_a_loop_that_scans_layers_at_every_turn_transposes_no_factors():
    def looped(params, x):
        layer = lambda h, of: (jnp.tanh(h @ of["w"] + of["b"]), 0)
        turn = lambda h: jax.lax.scan(layer, h, params)[0]
        return jax.lax.while_loop(lambda h: h[0, 0] < 0.1, turn, x)

    layers = {"w": jnp.ones((6, 4, 4)), "b": jnp.ones((6, 4))}
    traced = jax.make_jaxpr(strategy().ask(looped))(layers, KEY, X[:1])
    loop = next(e for e in jaxprs.equations(traced) if e.primitive.name == "while")
    moved = [
        e.invars[0].aval.shape
        for e in jaxprs.equations(loop.params["body_jaxpr"])
        if e.primitive.name == "transpose" and N in e.invars[0].aval.shape
    ]
    assert not moved
    # And one row is multiplied as a vector is: the base product is the only one.
    names = [e.primitive.name for e in jaxprs.equations(traced)]
    assert names.count("dot_general") == 1
