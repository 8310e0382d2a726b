"""A member's perturbation as factors is what is added when it is evaluated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

import eggroll


KEY = jax.random.key(0)
N = 8
PARAMS = {
    "stack": jnp.ones((2, 4, 4)),  # two layers
    "table": jnp.linspace(-1, 1, 28).reshape(7, 4).astype(jnp.bfloat16),
    "kernel": jnp.ones((3, 4, 5)),  # rows are its first and its second dimension
    "heads": jnp.ones((2, 5, 3)),  # rows are the dimension in the middle
    "shift": jnp.zeros(4),
    "fixed": jnp.ones((4, 4)),
    "count": jnp.arange(3),
    "name": "of no array",
}
RULES = {"fixed": eggroll.frozen}


def use(params, x):
    h = params["table"][x].astype(jnp.float32)
    h = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), 0), h, params["stack"])[0]
    h = h @ params["fixed"] + params["shift"]
    h = jax.lax.conv(h.T[None], params["kernel"].T, (1,), "SAME")[0].T
    return jnp.einsum("ti,hio->tho", h, params["heads"]).sum()


def settings(**other):
    return eggroll.EvolutionStrategy(
        **{"population": N, "sigma": 0.25, "rules": RULES, **other}
    )


X = jnp.array([0, 3, 6])
STRATEGIES = {
    "signs": settings(),
    "gaussian, rank 3": settings(noise="gaussian", rank=3, sigma=0.1),
    "full rank": settings(rank=None, noise="gaussian"),
    "no pairs, a schedule": settings(
        antithetic=False, rank=2, sigma=lambda step: 0.5 / (1 + step)
    ),
}


@pytest.fixture(params=STRATEGIES)
def es(request):
    return STRATEGIES[request.param]


def generation_of(es):
    return es.generation(use)(PARAMS, KEY, X, step=3)


def by_path(factors):
    is_leaf = lambda x: isinstance(x, eggroll.Factors)
    return {x.path: x for x in jax.tree.leaves(factors, is_leaf=is_leaf)}


def test_parameters_and_factors_are_the_member(es):
    generation = generation_of(es)
    for i in (0, N - 1):
        member, factors = es.member(generation, PARAMS, i), es.factors(generation, i)
        for name, one in factors.items():
            expected = member[name]
            if one is None:
                assert np.array_equal(expected, PARAMS[name])
                continue
            total = (PARAMS[name] + one.written).astype(expected.dtype)
            np.testing.assert_array_equal(total, expected)


def test_what_evolves_has_factors_and_full_rank_is_told_apart(es):
    found = by_path(es.factors(generation_of(es), 0))
    assert {*found} == {"stack", "table", "kernel", "heads", "shift"}
    rank = es.rank or 0
    left = {name: x.left.shape for name, x in found.items()}
    right = {
        name: x.right if x.right is None else x.right.shape for name, x in found.items()
    }
    assert (left["shift"], right["shift"]) == ((4,), None)
    if not rank:
        assert left == {name: PARAMS[name].shape for name in found}
        assert {*right.values()} == {None}
        return
    assert (left["stack"], right["stack"]) == ((2, 4, rank), (2, 4, rank))
    assert (left["table"], right["table"]) == ((7, rank), (4, rank))
    assert (left["kernel"], right["kernel"]) == ((12, rank), (5, rank))


def test_a_matrix_is_the_multiplier_times_left_by_right():
    es = STRATEGIES["gaussian, rank 3"]
    generation = generation_of(es)
    member, found = es.member(generation, PARAMS, 1), by_path(es.factors(generation, 1))
    one = found["stack"]
    for layer in range(2):
        product = np.asarray(one.left[layer]) @ np.asarray(one.right[layer]).T
        added = (
            np.asarray(PARAMS["stack"][layer]) + np.asarray(one.multiplier) * product
        )
        np.testing.assert_array_equal(added, member["stack"][layer])


def test_the_members_of_a_pair_differ_in_sign_alone(es):
    generation = generation_of(es)
    plus, minus = (by_path(es.factors(generation, i)) for i in (4, 5))
    for name, one in plus.items():
        other = minus[name]
        assert one.multiplier == other.multiplier
        assert np.array_equal(one.written, -other.written) == es.antithetic
        if one.right is not None:
            same = np.array_equal(np.abs(one.right), np.abs(other.right))
            assert same or not es.antithetic


def test_a_generation_that_nothing_was_evaluated_for_is_that_of_ask(es):
    asked = quick.jit(lambda: es.ask(use)(PARAMS, KEY, X, step=3)[1])()
    found = generation_of(es)
    assert jax.tree.structure(found) == jax.tree.structure(asked)
    assert jax.random.key_data(found.key).tolist() == [*jax.random.key_data(asked.key)]
    assert (found.step, found.sigma) == (asked.step, asked.sigma)


def test_it_is_learnt_from_as_from_one_of_ask():
    es, fitness = settings(rules={}), np.arange(N) % 3
    apply, params = lambda params, x: x @ params["w"], {"w": jnp.ones((3, 4))}
    run = lambda how: getattr(es, how)(apply)(params, KEY, jnp.ones(3), step=3)
    learn = quick.jit(es.gradient)
    expected, found = learn(run("ask")[1], fitness), learn(run("generation"), fitness)
    np.testing.assert_array_equal(found["w"], expected["w"])


def test_shapes_are_enough_for_a_generation():
    es = STRATEGIES["signs"]
    arrays = {k: x for k, x in PARAMS.items() if k != "name"}
    abstract = jax.eval_shape(lambda: arrays)
    x = jax.ShapeDtypeStruct(X.shape, X.dtype)
    found = es.generation(use)(abstract, KEY, x, step=3)
    expected = es.generation(use)(arrays, KEY, X, step=3)
    assert found.plan == expected.plan
    assert found.settings == expected.settings


def test_factors_of_all_members_at_once():
    es = STRATEGIES["signs"]
    generation = generation_of(es)
    of = lambda generation, i: es.factors(generation, i)
    every = quick.jit(jax.vmap(of, in_axes=(None, 0)))(generation, jnp.arange(N))
    for i in range(N):
        one = es.factors(generation, i)
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_array_equal(
                a[i] if a.ndim > b.ndim else a, b
            ),
            every,
            one,
        )


def test_members_that_do_not_exist_and_other_strategies_are_refused():
    generation = generation_of(STRATEGIES["signs"])
    with pytest.raises(ValueError, match=f"whole number from 0 to {N - 1}, got {N}"):
        STRATEGIES["signs"].factors(generation, N)
    with pytest.raises(ValueError, match="asked for by another strategy: noise"):
        STRATEGIES["gaussian, rank 3"].factors(generation, 0)
