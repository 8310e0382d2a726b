"""A loop for those who have none: what it finds, and when it stops."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick
from flax import nnx

import eggroll
from eggroll.evolution import noise as noises


KEY, N = jax.random.key(1), 16
X = jnp.linspace(-1, 1, 20).reshape(5, 4)
PARAMS = {"w": jnp.ones((4, 3)), "b": jnp.zeros(3)}
minimise = functools.partial(eggroll.minimise, population=N, sigma=0.1)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Each call compiles anew, and most of these tests make few steps."""
    monkeypatch.setattr(jax, "jit", quick.jit)


def quadratic(x):
    return jnp.sum((x - 3) ** 2)


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def loss(params, x):
    return jnp.mean((x @ params["w"] + params["b"] - 1) ** 2)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def same_result(a, b):
    """All but the time, which is the machine's."""
    same(a._replace(seconds=0), b._replace(seconds=0))


@functools.cache
def five_steps(seed=1):
    return minimise(loss, PARAMS, jax.random.key(seed), X, steps=5)


# --- What it finds


def test_as_it_comes_it_finds_the_minimum_of_a_quadratic():
    result = eggroll.minimise(quadratic, jnp.zeros(5), KEY)
    assert result.steps == 1000
    assert result.value < 1e-8
    assert result.best_value < 1e-8
    np.testing.assert_allclose(result.params, 3, atol=1e-3)
    assert result.history.value[0] == 45


@pytest.mark.slow
def test_it_goes_through_the_valley_of_rosenbrock():
    # Of the smoothed function the minimum is elsewhere, by a multiple of sigma².
    start = jnp.array([-1.2, 1.0])
    result = eggroll.minimise(rosenbrock, start, KEY, sigma=0.02, steps=2000)
    assert rosenbrock(start) > 20
    assert result.value < 1e-4
    np.testing.assert_allclose(result.best, 1, atol=0.1)


def test_a_step_is_that_of_value_and_grad():
    es, optimizer = eggroll.EvolutionStrategy(N, 0.1), optax.adam(0.03)
    result = eggroll.minimise(
        loss, PARAMS, KEY, X, strategy=es, optimizer=optimizer, steps=4
    )
    params, state = PARAMS, optimizer.init(PARAMS)
    run = quick.jit(es.value_and_grad(loss))
    for step in range(4):
        value, grads = run(params, KEY, X, step=step)
        np.testing.assert_allclose(result.history.value[step], value, rtol=1e-4)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4), result[0], params)
    np.testing.assert_allclose(result.value, loss(params, X), rtol=1e-4)


@pytest.mark.parametrize("rate", [0.01, pytest.param(1.0, marks=pytest.mark.slow)])
def test_the_best_is_the_lowest_of_all_that_was_evaluated(rate):
    """Members, asked again at each step, and the parameters themselves."""
    es = eggroll.EvolutionStrategy(N, 0.3)
    seen = []
    found = lambda so_far: seen.append(so_far.params)
    result = eggroll.minimise(
        loss,
        PARAMS,
        KEY,
        X,
        strategy=es,
        optimizer=optax.sgd(rate),
        steps=6,
        report=found,
        report_every=1,
    )
    means = [PARAMS, *seen]
    ask = quick.jit(es.ask(loss))
    members = np.array([ask(p, KEY, X, step=i)[0] for i, p in enumerate(means[:-1])])
    values = np.array([loss(p, X) for p in means])
    np.testing.assert_allclose(result.history.best, members.min(axis=1), rtol=1e-4)
    np.testing.assert_allclose(result.history.mean, members.mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose(result.history.value, values[:-1], rtol=1e-4)
    lowest = min(members.min(), values.min())
    np.testing.assert_allclose(result.best_value, lowest, rtol=1e-4)
    np.testing.assert_allclose(loss(result.best, X), result.best_value, rtol=1e-4)
    assert result.evaluations == members.size + values.size


def test_the_best_parameters_may_be_those_of_the_start():
    result = minimise(quadratic, jnp.full(2, 3.0), KEY, steps=3)
    assert result.best_value == 0
    same(result.best, jnp.full(2, 3.0))


def test_failed_members_are_never_the_best():
    cliff = lambda x: jnp.where(x[0] > 0, -jnp.inf, 1 - x[0])
    result = minimise(cliff, jnp.array([-0.05, 0.0]), KEY, steps=3)
    assert math.isfinite(result.best_value)
    assert result.best[0] <= 0


# --- What it is given


def test_leaves_that_are_not_perturbed_stay_as_they_are():
    params = {"w": jnp.ones((2, 2)), "fixed": jnp.ones(2), "n": jnp.arange(3)}
    params |= {"name": "a", "flag": True, "scale": 2.0, "host": np.arange(2)}

    def use(p):
        assert (p["name"], p["flag"]) == ("a", True)
        return jnp.sum((p["scale"] * p["w"] - p["n"][2] - 4 * p["host"][1]) ** 2)

    rules = {"fixed": eggroll.frozen, "n": eggroll.frozen}
    es = eggroll.EvolutionStrategy(N, 0.1, rules=rules)
    decay = optax.adamw(0.01, weight_decay=1.0)
    result = eggroll.minimise(use, params, KEY, strategy=es, optimizer=decay, steps=3)
    for found in (result.params, result.best):
        for name in ("fixed", "n", "name", "flag", "host"):
            same(found[name], params[name])
        assert found["scale"] != 2
    assert not np.any(result.params["w"] == 1)


def test_scalars_and_numbers_of_python_evolve():
    for start in (0.0, np.float32(0)):
        result = minimise(lambda x: (x - 1) ** 2, start, KEY, steps=100)
        np.testing.assert_allclose(result.params, 1, atol=0.02)


def test_short_parameters_keep_their_type_and_small_steps_add_up():
    result = minimise(quadratic, jnp.full(3, 2.5, jnp.bfloat16), KEY, steps=150)
    assert result.params.dtype == result.best.dtype == jnp.bfloat16
    assert result.best_value < 0.01


def test_losses_of_whole_numbers_are_minimised():
    count = lambda x: jnp.sum(jnp.abs(jnp.round(10 * x)).astype(jnp.int32))
    result = minimise(count, jnp.full(4, 0.5), KEY, steps=50)
    assert result.history.value[0] == 20
    assert result.best_value < 5


def test_a_loss_may_draw_data_of_its_own():
    def noisy(params, key, step):
        return quadratic(params) + jax.random.uniform(key) + step

    start = jnp.full(2, 3.0)
    result = minimise(noisy, start, KEY, steps=3)
    own = noises.member_key(noises.base_key(KEY), 0, jnp.asarray(N))
    expected = noisy(start, own, step=0)  # with the key of value_and_grad
    np.testing.assert_allclose(result.history.value[0], expected, rtol=1e-5)
    assert np.all(np.diff(result.history.mean) > 0)


def test_optimisers_that_follow_the_value_are_given_it():
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1)
    optimizer = optax.chain(optax.adam(0.1), plateau)
    result = minimise(quadratic, jnp.zeros(2), KEY, optimizer=optimizer, steps=60)
    assert result.value < 0.1


@pytest.mark.slow
def test_modules_of_equinox_are_given_back():
    model = eqx.nn.Linear(4, 1, key=KEY)
    fit = lambda model, x: jnp.mean((jax.vmap(model)(x)[:, 0] - x.sum(1)) ** 2)
    result = minimise(fit, model, KEY, X, steps=40)
    assert isinstance(result.best, eqx.nn.Linear)
    np.testing.assert_allclose(fit(result.best, X), result.best_value, rtol=1e-3)
    assert result.best_value < 0.5 * fit(model, X)


def test_modules_of_nnx_are_given_back_and_left_alone():
    model, other = (
        nnx.Linear(4, 1, rngs=nnx.Rngs(0)),
        nnx.Linear(4, 1, rngs=nnx.Rngs(1)),
    )
    fit = lambda model, other, x: jnp.mean((model(x) - other(x)) ** 2)
    before = fit(model, other, X)
    result = minimise(fit, model, KEY, other, X, steps=40)
    assert fit(model, other, X) == before
    assert isinstance(result.params, nnx.Linear)
    np.testing.assert_allclose(fit(result.params, other, X), result.value, rtol=1e-3)
    np.testing.assert_allclose(fit(result.best, other, X), result.best_value, rtol=1e-3)
    assert result.best_value < 0.5 * before


def test_a_module_whose_state_changes_is_refused():
    model = nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    fit = lambda model, x: jnp.mean(model(x) ** 4)
    with pytest.raises(
        ValueError, match=r"changes the state.*evaluation.*value_and_grad"
    ):
        minimise(fit, model, KEY, X)
    model.eval()
    assert minimise(fit, model, KEY, X, steps=2).steps == 2


@pytest.mark.slow
def test_a_population_may_be_spread_over_devices():
    mesh = eggroll.population_mesh(jax.devices()[:2])
    es = eggroll.EvolutionStrategy(N, 0.1, mesh=mesh)
    spread = eggroll.minimise(loss, PARAMS, KEY, X, strategy=es, steps=5)
    np.testing.assert_allclose(spread.history, five_steps().history, rtol=1e-4)


# --- When it stops


def test_it_stops_when_all_steps_are_done():
    result = minimise(quadratic, jnp.zeros(2), KEY, steps=7)
    assert (result.steps, result.reason) == (7, "all steps are done")
    assert [len(x) for x in result.history] == [7, 7, 7]


def test_it_stops_at_the_very_step_that_reaches_the_target():
    whole = minimise(quadratic, jnp.zeros(2), KEY, steps=100)
    lowest = np.minimum.accumulate(whole.history.best)
    target = float(lowest[40])
    result = minimise(quadratic, jnp.zeros(2), KEY, steps=100, target=target)
    assert result.reason == "the target is reached"
    assert result.best_value <= target
    assert 35 <= result.steps <= 41
    same(result.history.value, whole.history.value[: result.steps])
    done = minimise(quadratic, jnp.zeros(2), KEY, target=18)
    assert (done.steps, done.reason) == (0, "the target is reached")


@pytest.mark.slow
def test_it_stops_when_patience_is_at_its_end():
    start = jnp.full(2, 3.0)  # where nothing can improve
    result = minimise(quadratic, start, KEY, steps=50, patience=7)
    assert result.steps == 7
    assert "as many steps as patience allows" in result.reason
    result = minimise(
        quadratic, jnp.zeros(2), KEY, patience=3, min_improvement=10.0, steps=50
    )
    assert result.steps < 10


def test_it_stops_when_nothing_can_be_learnt_and_keeps_the_best():
    brittle = lambda x: jnp.where(x[0] > 1, jnp.nan, quadratic(x))
    result = minimise(brittle, jnp.zeros(2), KEY, optimizer=optax.sgd(2.0), steps=50)
    assert "no member has a finite loss" in result.reason
    assert result.steps < 50
    assert math.isnan(result.value)
    assert result.best_value < 18
    np.testing.assert_allclose(brittle(result.best), result.best_value, rtol=1e-5)


def test_a_start_that_fails_is_given_back():
    with jax.debug_nans(True):  # where it is no error, either
        result = minimise(lambda x: jnp.sum(x) * jnp.nan, jnp.ones(2), KEY)
    assert "no member has a finite loss" in result.reason
    assert (result.steps, result.best_value) == (1, math.inf)
    same(result.best, jnp.ones(2))
    assert math.isnan(result.value)
    assert np.isnan(result.history.mean).all()


def test_it_stops_when_the_time_is_used_up():
    result = minimise(quadratic, jnp.zeros(2), KEY, steps=10**6, seconds=1.0)
    assert result.reason == "the time is used up"
    assert result.seconds >= 1.0
    assert result.steps % 100 == 0


def test_a_report_sees_what_there_is_so_far_and_may_stop_it():
    seen = []

    def report(so_far):
        seen.append(so_far)
        return so_far.steps >= 6

    result = minimise(
        quadratic, jnp.zeros(2), KEY, steps=20, report=report, report_every=3
    )
    assert (result.steps, result.reason) == (6, "report asked to stop")
    assert [(x.steps, x.reason) for x in seen] == [(3, ""), (6, "")]
    for one in seen:
        np.testing.assert_allclose(quadratic(one.params), one.value, rtol=1e-5)
        assert one.best_value <= min(one.value, one.history.best.min())
    same_result(seen[-1]._replace(reason=result.reason), result)


def interrupt(so_far):
    if so_far.steps == 4:
        raise KeyboardInterrupt


def test_an_interrupt_from_the_keyboard_loses_nothing():
    run = functools.partial(minimise, quadratic, jnp.zeros(2), KEY, report_every=2)
    result = run(report=interrupt)
    assert (result.steps, result.reason) == (4, "interrupted")
    expected = run(report=lambda so_far: so_far.steps == 4)
    same_result(result, expected._replace(reason=result.reason))


def test_an_exception_of_a_report_is_the_callers():
    params = jnp.zeros(2)

    def report(so_far):
        raise RuntimeError(f"after {so_far.steps}")

    with pytest.raises(RuntimeError, match="after 3"):
        minimise(quadratic, params, KEY, report=report, report_every=3)
    same(params, jnp.zeros(2))  # and still there


# --- What it can be relied on for


@pytest.mark.slow
def test_the_same_key_gives_the_same_result():
    one = five_steps()
    five_steps.cache_clear()
    same_result(five_steps(), one)
    assert not np.array_equal(five_steps(2).params["w"], one.params["w"])


@pytest.mark.slow
@pytest.mark.parametrize("target", [None, 10.0])
def test_how_often_it_reports_changes_nothing(target):
    run = lambda every: minimise(
        quadratic, jnp.zeros(2), KEY, steps=40, report_every=every, target=target
    )
    one = run(1)
    assert one.steps == 40 if target is None else one.steps % 7
    same_result(one, run(7))


def test_it_is_traced_before_the_first_report_and_not_again():
    traces, at = [], []

    def counted(x):
        traces.append(1)
        return quadratic(x)

    report = lambda so_far: at.append(len(traces))
    start = 1.0  # of a weak type, which no step gives back
    minimise(counted, start, KEY, steps=10, report=report, report_every=3)
    assert len(at) == 4
    assert len({*at}) == 1


# --- Bad use


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": None}, "steps must be a number, got None"),
        ({"patience": 1.5}, "patience must be a whole number, got 1.5"),
        ({"report_every": 0}, "report_every must be at least 1"),
        ({"min_improvement": -1}, "min_improvement must be a number of at least 0"),
        ({"seconds": "1"}, "seconds must be a number of at least 0, got '1'"),
        ({"target": math.nan}, "target must be a number, got nan"),
        (
            {"strategy": eggroll.EvolutionStrategy(N, 0.1), "population": N},
            "either strategy= or population= and sigma=, not both",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(how, message):
    with pytest.raises(ValueError, match=message):
        eggroll.minimise(quadratic, jnp.zeros(2), KEY, **how)


def test_a_call_that_cannot_work_is_explained():
    how = r"minimise\(loss, params, key, \*args\)"
    with pytest.raises(TypeError, match=rf"third argument must be a random key.*{how}"):
        minimise(loss, PARAMS, X, KEY)
    with pytest.raises(TypeError, match=rf"expected a function, got a dict.*{how}"):
        minimise(PARAMS, loss, KEY, X)
    with pytest.raises(TypeError, match=r"loss\(params, x\) cannot be called"):
        minimise(loss, PARAMS, KEY)
    with pytest.raises(TypeError, match=r"strategy must be .*got a int"):
        eggroll.minimise(quadratic, jnp.zeros(2), KEY, strategy=3)
    with pytest.raises(TypeError, match=r"optimizer must be one of optax.*'adam'"):
        minimise(quadratic, jnp.zeros(2), KEY, optimizer="adam")
    with pytest.raises(ValueError, match="must be one number: got shape"):
        minimise(lambda x: x, jnp.zeros(2), KEY)
    with pytest.raises(jax.errors.TracerBoolConversionError) as error:
        minimise(lambda x: 1.0 if x[0] > 0 else 0.0, jnp.zeros(2), KEY)
    assert "es.ask evaluates the members" in "".join(error.value.__notes__)
