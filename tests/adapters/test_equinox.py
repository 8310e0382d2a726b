"""A call on modules of Equinox, opened, is what `eqx.filter_grad` sees."""

import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxpr_as_fun

from eggroll import adapters


KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)


class Net(eqx.Module):
    """A layer, its activation, a rate, a count, an optional bias and static fields."""

    linear: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    activation: object
    table: np.ndarray
    count: jax.Array
    half: jax.Array
    bias: None
    name: str = eqx.field(static=True)

    def __init__(self):
        self.linear = eqx.nn.Linear(3, 3, key=KEY)
        self.dropout = eqx.nn.Dropout(0.5)
        self.activation = jax.nn.tanh
        self.table = np.ones(3, np.float32)
        self.count = jnp.array(3)
        self.half = jnp.ones(3, jnp.float16)
        self.bias = None
        self.name = "net"

    def __call__(self, x, key):
        x = self.activation(self.linear(x)) * self.table * self.half
        return self.dropout(x, key=key) * self.count


class Stateful(eqx.Module):
    norm: eqx.nn.BatchNorm
    linear: eqx.nn.Linear

    def __init__(self):
        self.norm = eqx.nn.BatchNorm(3, axis_name="batch", mode="batch")
        self.linear = eqx.nn.Linear(3, 3, key=KEY)

    def __call__(self, x, state):
        x, state = self.norm(x, state)
        return self.linear(x), state


def square(model, x):
    return jnp.mean(jax.vmap(model, (0, None))(x, KEY) ** 2)


def with_state(model, state, x):
    over = jax.vmap(model, (0, None), (0, None), axis_name="batch")
    y, state = over(x, state)
    return jnp.mean(y**2), state


def paired(models, x):
    return square(models["net"], x) + jnp.sum(models["scale"] * x)


def make_stateful():
    return eqx.nn.make_with_state(Stateful)()


def assert_same(a, b):
    """Two pytrees are equal, in structure, dtypes and values."""
    ours, tree = jax.tree.flatten(a)
    theirs, other = jax.tree.flatten(b)
    assert tree == other
    for x, y in zip(ours, theirs, strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def value_and_grad(fn, params, *args, has_aux=False):
    """`eqx.filter_value_and_grad`, by the adapter and `jax.value_and_grad`."""
    call = adapters.opened(fn, params, args)

    def run(params):
        result, state = call.function(params, *call.args)
        assert state is None
        return result

    return jax.value_and_grad(run, has_aux=has_aux)(call.params)


@pytest.mark.parametrize("jit", [lambda f: f, eqx.filter_jit], ids=["eager", "jit"])
@pytest.mark.parametrize(
    ("fn", "make"),
    [(square, Net), (paired, lambda: {"net": Net(), "scale": jnp.array(2.0)})],
    ids=["module", "module in a dict"],
)
def test_value_and_gradient_are_those_of_equinox(fn, make, jit):
    expected = jit(eqx.filter_value_and_grad(fn))(make(), X)
    assert_same(jit(lambda *args: value_and_grad(fn, *args))(make(), X), expected)


def test_a_state_goes_in_and_out_as_for_equinox():
    expected = eqx.filter_value_and_grad(with_state, has_aux=True)(*make_stateful(), X)
    assert_same(value_and_grad(with_state, *make_stateful(), X, has_aux=True), expected)


def test_a_state_is_traced_and_comes_back_for_each_member():
    model, state = make_stateful()
    call = adapters.opened(with_state, model, (state, X))
    params = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), call.params)
    run = lambda params, *args: call.function(params, *args)[0]
    traced, shape = jax.make_jaxpr(run, return_shape=True)(call.params, *call.args)
    flat = jaxpr_as_fun(traced)
    members = jax.vmap(lambda p: flat(*jax.tree.leaves((p, *call.args))))(params)
    value, after = jax.tree.unflatten(jax.tree.structure(shape), members)
    expected = with_state(call.close(jax.tree.map(lambda x: x[1], params)), state, X)
    ours = jax.tree.map(lambda x: x[1], (value, after))
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_floating_point_arrays_learn_and_nothing_else():
    params = adapters.opened(square, Net(), (X,)).params
    paths = [path for path, _ in jax.tree.leaves_with_path(params)]
    assert {path[0].name for path in paths} == {"linear", "half", "table"}


def test_closing_gives_the_module_of_other_parameters():
    call = adapters.opened(square, Net(), (X,))
    closed = call.close(jax.tree.map(lambda x: 2 * x, call.params))
    np.testing.assert_array_equal(closed.linear.weight, 2 * Net().linear.weight)
    assert closed.activation is jax.nn.tanh
    assert (closed.dropout.p, closed.name) == (0.5, "net")


def test_modules_as_other_arguments_are_pytrees():
    fn = lambda params, model, x: square(model, params["w"] * x)
    params, args = {"w": jnp.ones(3)}, (Net(), X)
    call = adapters.opened(fn, params, args)
    assert call.params is params
    assert call.args is args


def test_a_key_is_found_and_handed_on():
    fn = lambda model, x, key: jnp.mean(jax.vmap(model, (0, None))(x, key))
    call = adapters.opened(fn, Net(), (X,))
    assert "key" in inspect.signature(call.function).parameters
    value, _ = call.function(call.params, *call.args, key=KEY)
    np.testing.assert_array_equal(value, fn(Net(), X, KEY))


def test_abstract_modules_can_be_traced():
    model = eqx.filter_eval_shape(lambda: eqx.nn.Linear(3, 3, key=KEY))
    call = adapters.opened(lambda model, x: jnp.sum(jax.vmap(model)(x)), model, (X,))
    assert jax.eval_shape(call.function, call.params, *call.args)[0].shape == ()


def test_a_filter_of_flax_is_refused():
    with pytest.raises(ValueError, match=r"holds one of Equinox\. Leave wrt out"):
        adapters.opened(square, Net(), (X,), wrt=jax.Array)
