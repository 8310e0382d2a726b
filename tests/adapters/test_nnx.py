"""A call on modules of Flax NNX, opened, is to the engine what `nnx.grad` sees."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from eggroll import adapters


pytestmark = pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)


def linear(seed: int = 0, **kwargs) -> nnx.Linear:
    return nnx.Linear(3, 3, rngs=nnx.Rngs(seed), **kwargs)


class Net(nnx.Module):
    """All in one: shared weights, statistics, streams of noise, sown values."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(3, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.again = self.first
        self.offset = nnx.data(jnp.ones(3))
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        x = self.dropout(self.norm(self.first(x)))
        self.sow(nnx.Intermediate, "seen", x)
        return self.again(x) + self.offset


class Opaque(nnx.Module, pytree=False):
    def __init__(self, rngs: nnx.Rngs):
        self.inner, self.count = nnx.Linear(3, 3, rngs=rngs), nnx.Variable(jnp.array(0))

    def __call__(self, x):
        self.count[...] += 1
        return self.inner(x)


class Stack(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        make = lambda rngs: Net(rngs)
        self.layers = nnx.split_rngs(splits=2)(nnx.vmap(make))(rngs)
        self.head = nnx.Linear(3, 1, rngs=rngs)

    def __call__(self, x):
        layer = nnx.remat(lambda net, x: net.dropout(net.norm(net.first(x))))
        scan = nnx.scan(layer, in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        return self.head(scan(self.layers, x))


class Cached(nnx.Module):
    def __init__(self):
        self.linear, self.cache = linear(), nnx.Cache(X)

    def __call__(self, x):
        return self.linear(x) + nnx.pop(self, nnx.Cache)["cache"][...]


def square(model, x):
    return jnp.mean(model(x) ** 2)


def noisy(model, rngs, x):
    return square(model, x + rngs.normal(x.shape))


def measured(model, metrics, x):
    loss = square(model, x)
    metrics.update(loss=loss)
    return loss


def paired(models, x):
    return square(models["a"], x) + square(models["b"][0], x) * models["scale"]


def counted(weight, count, x):
    count[...] += 1
    return jnp.sum(x @ weight[...])


def moving(model, average, x):
    average.kernel[...] = 0.9 * average.kernel[...] + 0.1 * model.kernel[...]
    average.bias[...] = model.bias[...]
    return square(model, x) + square(average, x)


def evaluated(model, x):
    model.eval()
    model.offset = model.offset + 1
    return square(model, x)


# name: (function, what makes its arguments, and those by name)
CALLS = {
    "module": (square, lambda: (linear(), X), {}),
    "float16": (square, lambda: (linear(param_dtype=jnp.float16), X), {}),
    "shared weights and all kinds of state": (
        square,
        lambda: (Net(nnx.Rngs(0)), X),
        {},
    ),
    "module that is no pytree": (square, lambda: (Opaque(nnx.Rngs(0)), X), {}),
    "transforms of NNX in the module": (square, lambda: (Stack(nnx.Rngs(0)), X), {}),
    "streams of noise": (noisy, lambda: (linear(), nnx.Rngs(1), X), {}),
    "metrics": (
        measured,
        lambda: (linear(), nnx.MultiMetric(loss=nnx.metrics.Average("loss"))),
        {"x": X},
    ),
    "two modules and a number": (
        paired,
        lambda: ({"a": linear(), "b": [linear(1)], "scale": jnp.array(2.0)}, X),
        {},
    ),
    "one module twice": (
        paired,
        lambda: ({"a": (m := linear()), "b": [m], "scale": jnp.array(2.0)}, X),
        {},
    ),
    "variables": (
        counted,
        lambda: (nnx.Param(jnp.ones((3, 2))), nnx.Variable(jnp.array(0)), X),
        {},
    ),
    "moving average": (moving, lambda: (linear(), linear(1), X), {}),
    "attributes": (evaluated, lambda: (Net(nnx.Rngs(0)), X), {}),
    "variable that is taken away": (square, lambda: (Cached(), X), {}),
}


def objects(args):
    return [x for x in args if not isinstance(x, jax.Array)]


def assert_same(a, b):
    """Two pytrees are equal, in structure, types of leaves, dtypes and values."""
    ours, tree = jax.tree.flatten(a)
    theirs, other = jax.tree.flatten(b)
    assert tree == other
    for x, y in zip(ours, theirs, strict=True):
        assert jnp.asarray(x).dtype == jnp.asarray(y).dtype
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x, float), np.asarray(y, float))


def value_and_grad(fn, *args, wrt=None, **kwargs):
    """`nnx.value_and_grad`, by the adapter and `jax.value_and_grad`."""
    call = adapters.opened(fn, args[0], args[1:], kwargs, wrt)
    grad = jax.value_and_grad(call.function, has_aux=True)
    (value, state), grads = grad(call.params, *call.args, **call.kwargs)
    call.write_back(state)
    return value, grads


@pytest.mark.parametrize("jit", [lambda f: f, nnx.jit], ids=["eager", "nnx.jit"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_value_gradient_and_state_are_those_of_nnx(call, jit):
    fn, make, kwargs = call
    args, others = make(), make()
    expected = jit(nnx.value_and_grad(fn))(*args, **kwargs)
    assert_same(jit(functools.partial(value_and_grad, fn))(*others, **kwargs), expected)
    assert_same(nnx.state(objects(others)), nnx.state(objects(args)))
    assert nnx.graphdef(objects(others)) == nnx.graphdef(objects(args))


def test_a_jit_of_jax_takes_and_gives_back_a_module():
    def step(grad, model, x):
        value, grads = grad(model, x)
        return value, grads, nnx.state(model)

    ours = jax.jit(functools.partial(step, functools.partial(value_and_grad, square)))
    theirs = jax.jit(functools.partial(step, nnx.value_and_grad(square)))
    assert_same(ours(Net(nnx.Rngs(0)), X), theirs(Net(nnx.Rngs(0)), X))


def test_loops_of_nnx_carry_the_state():
    def run(grad):
        def turn(model, x):
            return model, grad(square, model, x)[0]

        model = Opaque(nnx.Rngs(0))
        carried = (nnx.Carry, 0), (nnx.Carry, 0)
        _, values = nnx.scan(turn, in_axes=carried[0], out_axes=carried[1])(model, X)
        again = lambda _, model: (grad(square, model, X), model)[1]
        model = nnx.fori_loop(0, 3, again, model)
        return values, nnx.state(model)

    ours, theirs = run(value_and_grad), run(lambda f, *a: nnx.value_and_grad(f)(*a))
    assert_same(ours, theirs)
    assert ours[1]["count"][...] == len(X) + 3


def test_models_mapped_by_nnx_are_evaluated_one_by_one():
    make = nnx.vmap(lambda key: Opaque(nnx.Rngs(key)))
    models, others = (make(jax.random.split(jax.random.key(0), 3)) for _ in range(2))
    over = nnx.vmap(functools.partial(value_and_grad, square), in_axes=(0, None))
    theirs = nnx.vmap(nnx.value_and_grad(square), in_axes=(0, None))
    assert_same(over(models, X), theirs(others, X))
    assert_same(nnx.state(models), nnx.state(others))
    np.testing.assert_array_equal(models.count[...], [1, 1, 1])


def test_an_optimizer_of_nnx_takes_the_gradient():
    model, other = Net(nnx.Rngs(0)), Net(nnx.Rngs(0))
    for one, grad in (model, value_and_grad), (other, None):
        optimizer = nnx.Optimizer(one, optax.adam(0.1), wrt=nnx.Param)
        grads = grad(square, one, X)[1] if grad else nnx.grad(square)(one, X)
        optimizer.update(one, grads)
    assert_same(nnx.state(model), nnx.state(other))


def test_weights_shared_with_another_argument_are_perturbed_there_too():
    model = Net(nnx.Rngs(0))
    fn = lambda model, part, x: square(part, x)
    call = adapters.opened(fn, model, (model.first, X))
    grads = jax.grad(lambda params: call.function(params, *call.args)[0])(call.params)
    expected = nnx.grad(square)(model.first, X)
    assert_same(grads["again"], expected)  # by the first name in the alphabet


def test_wrt_chooses_what_is_perturbed():
    model = nnx.LoRALinear(3, 3, lora_rank=2, rngs=nnx.Rngs(0))
    state = nnx.DiffState(0, nnx.LoRAParam)
    expected = nnx.value_and_grad(square, argnums=state)(model, X)
    assert_same(value_and_grad(square, model, X, wrt=nnx.LoRAParam), expected)
    names = nnx.PathContains("kernel")
    state = nnx.DiffState(0, names)
    expected = nnx.value_and_grad(square, argnums=state)(model, X)
    assert_same(value_and_grad(square, model, X, wrt=names), expected)


@pytest.mark.parametrize(
    ("argnums", "expected"),
    [
        (1, (1, None)),
        ((0, 2), ((0, 2), None)),
        ([0, 2], ((0, 2), None)),
        (nnx.DiffState(1, nnx.LoRAParam), (1, nnx.LoRAParam)),
        ((0, nnx.DiffState(1, nnx.Cache)), ((0, 1), (None, nnx.Cache))),
    ],
)
def test_positions_and_filters_are_separated(argnums, expected):
    assert adapters.positions(argnums) == expected


def test_each_of_several_arguments_has_its_filter():
    def fn(a, b, x):
        return square(a, x) + square(b, x)

    make = lambda: (Net(nnx.Rngs(0)), Net(nnx.Rngs(1)))
    argnums = (0, nnx.DiffState(1, nnx.PathContains("bias")))
    expected = nnx.value_and_grad(fn, argnums=argnums)(*make(), X)
    both = lambda models, x: fn(*models, x)
    wrt = adapters.positions(argnums)[1]
    assert_same(value_and_grad(both, make(), X, wrt=wrt), expected)


def test_the_function_is_pure_and_leaks_nothing():
    model = Net(nnx.Rngs(0))
    before = jax.tree.map(lambda x: x, nnx.state(model))
    call = adapters.opened(square, model, (X,))
    with jax.checking_leaks():
        first = jax.jit(call.function)(call.params, *call.args)
        assert_same(jax.jit(call.function)(call.params, *call.args), first)
    assert_same(nnx.state(model), before)


def test_members_under_vmap_have_states_of_their_own():
    call = adapters.opened(square, Opaque(nnx.Rngs(0)), (X,))
    params = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), call.params)
    values, state = jax.vmap(call.function, (0, None))(params, *call.args)
    for i in range(2):
        one = jax.tree.map(lambda x, i=i: x[i], params)
        expected = call.function(one, *call.args)[0]
        np.testing.assert_allclose(values[i], expected, rtol=1e-6)
    assert [x.shape for x in jax.tree.leaves(state)] == [(2,)]


def test_what_changes_nothing_has_no_state():
    call = adapters.opened(square, linear(), (X,))
    assert call.function(call.params, *call.args)[1] is None


def test_state_holds_what_has_changed_and_nothing_else():
    call = adapters.opened(square, Opaque(nnx.Rngs(0)), (X,))
    _, state = call.function(call.params, *call.args)
    assert [x.dtype for x in jax.tree.leaves(state)] == [jnp.int32]


def test_closing_gives_the_module_of_other_parameters():
    model = Net(nnx.Rngs(0))
    call = adapters.opened(square, (model, 2.0))
    closed, number = call.close(jax.tree.map(lambda x: 2 * x, call.params))
    assert number == 4.0
    assert closed.again is closed.first
    assert closed is not model
    np.testing.assert_array_equal(closed.first.kernel[...], 2 * model.first.kernel[...])
    assert_same(nnx.state(closed, nnx.BatchStat), nnx.state(model, nnx.BatchStat))


def test_a_key_is_found_and_handed_on():
    def fn(model, x, key):
        return square(model, x + jax.random.normal(key, x.shape))

    call = adapters.opened(fn, linear(), (X,))
    assert "key" in inspect.signature(call.function).parameters
    key = jax.random.key(0)
    value, _ = call.function(call.params, *call.args, key=key)
    np.testing.assert_array_equal(value, fn(linear(), X, key))


def test_split_states_are_pytrees_as_for_jax():
    graph, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
    fn = lambda params, rest, x: square(nnx.merge(graph, params, rest, copy=True), x)
    call = adapters.opened(fn, params, (rest, X))
    assert call.params is params
    assert call.args == (rest, X)
    assert call.function(params, rest, X)[1] is None


def test_a_state_beside_a_module_stays_an_argument():
    graph, state = nnx.split(linear(1))
    fn = lambda model, state, x: square(model, nnx.merge(graph, state, copy=True)(x))
    call = adapters.opened(fn, linear(), (state, X))
    assert call.args == (state, X)
    value, _ = call.function(call.params, *call.args)
    np.testing.assert_array_equal(value, fn(linear(), state, X))


@pytest.mark.skipif(not hasattr(nnx, "set_graph_mode"), reason="an older Flax")
def test_references_are_followed_where_nnx_is_set_to_trees():
    model, other = Net(nnx.Rngs(0)), Net(nnx.Rngs(0))
    expected = value_and_grad(square, other, X)
    with nnx.set_graph_mode(False):
        assert_same(value_and_grad(square, model, X), expected)
    assert_same(nnx.state(model), nnx.state(other))


def test_abstract_modules_can_be_traced():
    call = adapters.opened(square, nnx.eval_shape(linear), (X,))
    assert jax.eval_shape(call.function, call.params, *call.args)[0].shape == ()


@pytest.mark.parametrize(
    ("params", "wrt", "message"),
    [
        (linear(), nnx.LoRAParam, "LoRAParam.* matches no variable.*has: Param. Name"),
        (nnx.Rngs(0), None, "Param.* matches no variable.*has: RngCount, RngKey"),
        (nnx.Param(X), nnx.Param, "wrt chooses among .* hand in the module itself"),
        ({"w": X}, nnx.Param, "holds none: it is a dict. Leave wrt out"),
    ],
)
def test_a_wrt_that_chooses_nothing_is_refused(params, wrt, message):
    with pytest.raises(ValueError, match=message):
        adapters.opened(square, params, (X,), wrt=wrt)
