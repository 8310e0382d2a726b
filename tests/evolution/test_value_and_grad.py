"""What stands where `jax.value_and_grad` and `jax.grad` stood."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from flax import nnx

import eggroll


KEY, N = jax.random.key(1), 8
PARAMS = {"w": jnp.linspace(-1, 1, 12).reshape(4, 3), "b": jnp.ones(3)}
X = jax.random.normal(jax.random.key(0), (5, 4))


def strategy(**settings):
    return eggroll.EvolutionStrategy(**{"population": N, "sigma": 0.1, **settings})


def loss(params, x):
    return jnp.mean((x @ params["w"] + params["b"]) ** 2)


def with_aux(params, x):
    return loss(params, x), {"loss": loss(params, x), "name": "a", "count": 3}


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 2e-5, 1e-6), a, b)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


# Compiled once for several tests.
value_and_grad = quick.jit(strategy().value_and_grad(loss))
ask = quick.jit(strategy().ask(loss))


# --- Loss and fitness


def test_by_position_a_loss_goes_down():
    run = quick.jit(strategy(population=64).value_and_grad(loss))
    params = PARAMS
    for i in range(20):
        grads = run(params, jax.random.key(i), X)[1]
        params = jax.tree.map(lambda p, g: p - 0.01 * g, params, grads)
    assert loss(params, X) < 0.7 * loss(PARAMS, X)


def test_a_loss_is_minus_a_fitness():
    gain = lambda params, x: -loss(params, x)
    value, grads = quick.jit(strategy().value_and_grad(fitness=gain))(PARAMS, KEY, X)
    close((-value, grads), value_and_grad(PARAMS, KEY, X))


def test_grad_is_value_and_grad_without_the_value():
    expected = value_and_grad(PARAMS, KEY, X)[1]
    close(quick.jit(strategy().grad(loss))(PARAMS, KEY, X), expected)
    grads, aux = strategy().grad(with_aux, has_aux=True)(PARAMS, KEY, X)
    close(grads, expected)
    close(aux["loss"], loss(PARAMS, X))


# --- Value and aux


def test_value_and_aux_are_those_of_jax():
    ours, _ = strategy().value_and_grad(with_aux, has_aux=True)(PARAMS, KEY, X)
    theirs, _ = jax.value_and_grad(with_aux, has_aux=True)(PARAMS, X)
    close(ours[0], theirs[0])
    assert ours[1].pop("name") == theirs[1].pop("name") == "a"
    close(ours[1], theirs[1])


def test_members_are_evaluated_without_their_aux():
    dear = lambda params, x: (loss(params, x), jnp.zeros((1000, 1000)) + x[0, 0])
    es = strategy()
    run = jax.make_jaxpr(es.value_and_grad(dear, has_aux=True))(PARAMS, KEY, X)
    assert f"{N},1000,1000" not in str(run)


@pytest.mark.parametrize("value", ["mean", "first", "members"])
def test_value_and_aux_of_the_population_by_choice(value):
    members, _ = ask(PARAMS, KEY, X)
    how = {
        "mean": lambda x: jnp.mean(x, axis=0),
        "first": lambda x: x[0],
        "members": lambda x: x,
    }
    es = strategy()
    run = es.value_and_grad(with_aux, has_aux=True, value=value)
    (number, aux), grads = run(PARAMS, KEY, X)
    close(number, how[value](members))
    close(aux["loss"], how[value](members))
    assert aux["name"] == "a"
    assert np.all(aux["count"] == 3)
    close(grads, value_and_grad(PARAMS, KEY, X)[1])


def test_the_mean_leaves_out_failed_members_in_aux_too():
    def score(params, x):
        number = jnp.where(x[0] > 0.5, jnp.nan, x[0]) + 0 * jnp.sum(params["b"])
        return number, {"twice": 2 * number, "count": jnp.int32(3)}

    rows = jnp.linspace(0, 1, N)[:, None]
    run = strategy().value_and_grad(score, has_aux=True, in_axes=0)
    (number, aux), _ = run(PARAMS, KEY, rows)
    expected = np.mean(rows[rows <= 0.5])
    close((number, aux["twice"]), (expected, 2 * expected))
    assert aux["count"] == 3


def test_with_data_of_their_own_there_is_no_one_evaluation():
    rows = jnp.arange(N * 20.0).reshape(N, 5, 4)
    run = strategy().value_and_grad(loss, in_axes=0)
    scores, _ = strategy().ask(loss, in_axes=[0])(PARAMS, KEY, rows)
    close(run(PARAMS, KEY, rows)[0], jnp.mean(scores))
    run = strategy().value_and_grad(loss, in_axes=0, value="unperturbed")
    with pytest.raises(ValueError, match=r"data of their own.*'mean', 'first'"):
        run(PARAMS, KEY, rows)


def test_a_failed_member_is_no_error_where_nans_are():
    def fails(params):  # for those whose three signs agree
        return jnp.log(3.2 - jnp.sum(params["b"]))

    run = strategy().value_and_grad(fails)
    mean = strategy().value_and_grad(fails, value="mean")
    with jax.debug_nans(True), jax.debug_infs(True):
        for how in (run, quick.jit(run)):
            value, grads = how(PARAMS, KEY)
            close(value, np.log(0.2))
            assert np.isfinite(grads["b"]).all()
        assert np.isfinite(mean(PARAMS, KEY)[0])


# --- Which arguments


def test_argnums_counts_the_functions_own_arguments():
    swapped = lambda x, params: loss(params, x)
    grads = strategy().grad(swapped, argnums=1)(X, KEY, PARAMS)
    same(grads, strategy().grad(loss)(PARAMS, KEY, X))
    assert strategy().grad(swapped, argnums=-1)(X, KEY, PARAMS).keys() == grads.keys()


def test_several_arguments_evolve_together():
    apart = lambda w, b, x: loss({"w": w, "b": b}, x)
    run = strategy().value_and_grad(apart, argnums=(1, 0))
    value, (b, w) = run(PARAMS["w"], KEY, PARAMS["b"], X)
    assert (b.shape, w.shape) == ((3,), (4, 3))
    close(value, loss(PARAMS, X))


def test_in_axes_are_those_of_the_arguments_that_do_not_evolve():
    rows = jnp.arange(N * 20.0).reshape(N, 5, 4)
    swapped = lambda x, params, scale: scale * loss(params, x)
    grads = strategy().grad(swapped, argnums=1, in_axes=(0, None))(rows, KEY, PARAMS, 1)
    same(grads, strategy().grad(loss, in_axes=0)(PARAMS, KEY, rows))


def test_data_may_hold_values_of_python():
    def use(params, x, settings):
        assert type(settings["power"]) is int
        assert settings["name"] == "a"
        return jnp.mean((x @ params["w"]) ** settings["power"])

    settings = {"power": 2, "name": "a", "flag": True, "function": jnp.tanh}
    value, _ = strategy().value_and_grad(use)(PARAMS, KEY, X, settings)
    close(value, use(PARAMS, X, settings))


def test_a_function_may_have_arguments_named_as_ours():
    run = strategy().value_and_grad(lambda p, key, step: jnp.sum(p["b"]) * key + step)
    value, _ = run(PARAMS, KEY, 2.0, step=5)
    close(value, 11)
    run = strategy().value_and_grad(lambda p, *, key: jnp.sum(p["b"]) * key)
    close(run(PARAMS, KEY, key=2.0)[0], 6)


def test_a_function_may_have_any_names_for_its_arguments():
    def use(fn, *, params, put):
        return jnp.sum(fn["b"]) * params + put

    value, _ = strategy().value_and_grad(use)(PARAMS, KEY, params=2.0, put=1.0)
    close(value, 7)
    needs_step = lambda p, *, step: jnp.sum(p["b"]) + step
    close(strategy().value_and_grad(needs_step)(PARAMS, KEY)[0], 3)


# --- Forms


def test_both_are_decorators():
    @strategy().value_and_grad(has_aux=True)
    def first(params, x):
        """Says what it is."""
        return with_aux(params, x)

    @strategy().grad
    def second(params, x):
        return loss(params, x)

    (value, _), grads = first(PARAMS, KEY, X)
    close(value, loss(PARAMS, X))
    same(second(PARAMS, KEY, X), grads)
    assert (first.__name__, first.__doc__) == ("first", "Says what it is.")


def test_a_wrapper_with_arguments_of_its_own_is_called_by_those():
    @functools.wraps(loss)
    def with_batch(params):
        return loss(params, X)

    @functools.wraps(loss)
    def passing_on(*args, **kwargs):
        return loss(*args, **kwargs)

    expected = value_and_grad(PARAMS, KEY, X)
    close(strategy().value_and_grad(with_batch)(PARAMS, KEY), expected)
    close(strategy().value_and_grad(passing_on)(PARAMS, KEY, X), expected)


def test_static_arguments_are_found_by_name():
    def use(params, x, mode="sum"):
        return getattr(jnp, mode)(x @ params["w"])

    run = strategy().value_and_grad(use)
    run = jax.jit(run, static_argnames=("mode",))
    close(run(PARAMS, KEY, X, "mean", step=1)[0], use(PARAMS, X, "mean"))
    close(run(PARAMS, KEY, X, mode="mean")[0], use(PARAMS, X, "mean"))


def test_a_gradient_is_filled_with_zeros_for_optax():
    params = {"w": jnp.ones(3), "n": jnp.arange(2), "f": jnp.tanh, "none": None}
    grads = strategy().grad(lambda p: jnp.sum(p["f"](p["w"])))(params, KEY)
    filled = eggroll.filled(grads, params)
    assert filled["n"].tolist() == [0, 0]
    assert filled["f"] is filled["none"] is None


def test_steps_of_short_parameters_can_be_scanned():
    params = {"w": jnp.ones((4, 3), jnp.bfloat16)}

    def step(params, key):
        value, grads = strategy().value_and_grad(lambda p: jnp.sum(p["w"] ** 2))(
            params, key
        )
        return jax.tree.map(lambda p, g: p - g, params, grads), value

    last, _ = jax.lax.scan(step, params, jax.random.split(KEY, 3))
    assert last["w"].dtype == jnp.bfloat16


# --- Bad use


def key_error(call):
    with pytest.raises(TypeError, match=r"second argument must be a random key.*got"):
        call()


def test_a_key_forgotten_or_swapped_is_said():
    run = strategy().value_and_grad(loss)
    bad_keys = (X, 0, PARAMS, jax.random.split(KEY, 2), jnp.zeros(5, jnp.uint32))
    for bad in (*bad_keys, nnx.Rngs(0)):
        key_error(lambda bad=bad: run(PARAMS, bad, X))
    key_error(lambda: run(PARAMS, X, KEY))
    key_error(lambda: strategy().ask(loss)(PARAMS, X))
    run(PARAMS, jax.random.PRNGKey(0), X)


def test_a_step_may_be_a_counter_of_nnx():
    counter = nnx.Variable(jnp.asarray(3))
    run = strategy().value_and_grad(loss)
    same(run(PARAMS, KEY, X, step=counter)[1], run(PARAMS, KEY, X, step=3)[1])


def test_arguments_that_do_not_fit_are_said():
    run = strategy().value_and_grad(loss)
    with pytest.raises(TypeError, match=r"loss\(params, x\).*'x'.*key.*second"):
        run(PARAMS, KEY)
    with pytest.raises(TypeError, match=r"expected a function, got a dict"):
        strategy().value_and_grad(PARAMS)
    for argnums in (3, (0, 0), "0", (), 1.5):
        with pytest.raises(ValueError, match=r"argnums.*each once.*and 2 arguments"):
            strategy().grad(loss, argnums=argnums)(PARAMS, KEY, X)
    with pytest.raises(ValueError, match=r"gradient_dtype must be a floating.*int"):
        strategy(gradient_dtype=int)
    with pytest.raises(ValueError, match=r"w is complex64.*frozen"):
        strategy().grad(lambda p: jnp.abs(p["w"]))({"w": jnp.ones((), complex)}, KEY)
    with pytest.raises(ValueError, match=r"value must be one of.*got 'best'"):
        strategy().value_and_grad(loss, value="best")
    for step in (2**31, -1, 1.5, jnp.ones(2, int)):
        with pytest.raises(ValueError, match=r"step must be a whole number"):
            run(PARAMS, KEY, X, step=step)


def test_a_function_that_cannot_be_traced_is_explained():
    branches = lambda params: 1.0 if params["b"][0] > 0 else 0.0
    with pytest.raises(jax.errors.TracerBoolConversionError) as error:
        strategy().value_and_grad(branches)(PARAMS, KEY)
    assert "es.ask evaluates the members" in "".join(error.value.__notes__)


def test_ordered_callbacks_are_refused():
    def use(params):
        jax.debug.print("{}", params["b"], ordered=True)
        return jnp.sum(params["b"])

    with pytest.raises(ValueError, match=r"ordered callback.*ordered=False"):
        strategy().value_and_grad(use)(PARAMS, KEY)


# --- Strategies as values


@pytest.mark.slow
def test_sigma_may_be_traced_and_mapped():
    def run(sigma, key):
        es = strategy(sigma=sigma)
        return es.value_and_grad(loss)(PARAMS, key, X)

    sigmas, keys = jnp.array([0.1, 0.2]), jax.random.split(KEY, 2)
    both = jax.vmap(jax.vmap(run, (None, 0)), (0, None))(sigmas, keys)
    for i in range(2):
        for j in range(2):
            one = jax.jit(run)(sigmas[i], keys[j])
            close(jax.tree.map(lambda x, i=i, j=j: x[i, j], both), one)
            close(one, run(float(sigmas[i]), keys[j]))


@pytest.mark.slow
def test_a_strategy_is_a_pytree_of_its_sigma():
    es = strategy(rules={"b": eggroll.frozen}, shaping=eggroll.shaping.groups(4))
    assert jax.tree.leaves(es) == [0.1]
    assert jax.tree.map(lambda x: x, es) == es
    run = lambda es: es.value_and_grad(loss)(PARAMS, KEY, X)
    close(jax.jit(run)(es), run(es))
    many = jax.tree.map(lambda _: jnp.array([0.1, 0.2]), es)
    values, _ = jax.vmap(run)(many)
    assert values.shape == (2,)


def test_a_generation_of_a_traced_strategy_is_that_of_the_same_values():
    es = strategy()
    scores, generation = jax.jit(lambda es: es.ask(loss)(PARAMS, KEY, X))(es)
    close(es.gradient(generation, -scores), value_and_grad(PARAMS, KEY, X)[1])
    back = jax.jit(lambda es: es)(es)  # its sigma rounded to float32
    assert isinstance(hash(back), int)
    generation = back.ask(loss)(PARAMS, KEY, X)[1]
    close(es.gradient(generation, -scores), back.gradient(generation, -scores))


@pytest.mark.parametrize("sigma", ["0.1", None, [0.1], np.ones(2), 1j, True])
def test_a_sigma_that_is_no_number_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma must be one number, or a function"):
        strategy(sigma=sigma)
