"""However members' weights become an update on all devices, it is the same update."""

import functools
from typing import Any, NamedTuple

import collectives
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quick
from flax import linen, nnx
from jax.sharding import AxisType, PartitionSpec as P

import eggroll
from eggroll.evolution import reduction, sharding


KEY = jax.random.key(0)
N, WIDTH = 32, 48
SIZE = 2 * WIDTH * 2 * WIDTH  # of both matrices
PARTITION = {"up": P(None, "model"), "down": P("model")}
WAYS = ("reduce", "scatter", "replay", "mixed")
HOSTS = 2
pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")


@pytest.fixture(autouse=True)
def two_hosts(monkeypatch):
    half = lambda mesh: mesh.shape["population"] // HOSTS
    monkeypatch.setattr(reduction, "group_of", half)


def parameters():
    normal = np.random.default_rng(0).normal
    up, down = (normal(size=s) / 7 for s in ((WIDTH, 2 * WIDTH), (2 * WIDTH, WIDTH)))
    odd = normal(size=5)
    return jax.tree.map(jnp.float32, {"up": up, "down": down, "odd": odd})


def loss(params, x):
    return jnp.mean(
        (jnp.tanh(x @ params["up"]) @ params["down"] - params["odd"][0]) ** 2
    )


X = jnp.linspace(-1, 1, 3 * WIDTH).reshape(3, WIDTH)


class Ran(NamedTuple):
    """An update, and the program that made it."""

    value: Any
    grads: Any
    hlo: str
    flops: float


@functools.cache
def ran(way: str, model: int | None, **settings: Any) -> Ran:
    """The gradient on eight devices, or (model None) on one."""
    mesh, params = None, parameters()
    if model is not None:
        mesh = eggroll.population_mesh(jax.devices()[:8], model=model)
        settings |= {"partition": PARTITION if model > 1 else {}, "update": way}
    es = eggroll.EvolutionStrategy(N, 0.1, mesh=mesh, **settings)
    if model is not None:
        lies = eggroll.shardings(params, mesh, es.partition)
        params = jax.device_put(params, lies)
    run = jax.jit(es.value_and_grad(loss)).lower(params, KEY, X).compile()
    value, grads = run(params, KEY, X)
    return Ran(value, grads, run.as_text() or "", run.cost_analysis()["flops"])


@pytest.mark.parametrize("model", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_the_update_is_that_of_one_device(way, model):
    found, expected = ran(way, model), ran(way, None)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-5)
    for name, grad in expected.grads.items():
        limit = 1e-5 * float(jnp.abs(grad).max())
        np.testing.assert_allclose(found.grads[name], grad, rtol=1e-5, atol=limit)


def lies(array):
    spec = tuple(array.sharding.spec)
    return spec + (None,) * (array.ndim - len(spec))


@pytest.mark.parametrize("way", WAYS)
def test_gradients_lie_as_their_leaves_do(way):
    grads = ran(way, 2).grads
    own = "population" if way == "scatter" else None
    assert lies(grads["up"]) == (own, "model")
    assert lies(grads["down"]) == ("model", own)
    assert lies(grads["odd"]) == (None,)


@pytest.mark.parametrize("model", [1, 2])
def test_reduce_moves_one_sum_of_a_models_share(model):
    moved = collectives.by_kind(ran("reduce", model).hlo)
    assert SIZE / model <= moved["all-reduce"] < 1.1 * SIZE / model + 2 * N * WIDTH
    assert {*moved} == {"all-reduce"}


@pytest.mark.parametrize("model", [1, 2])
def test_scatter_leaves_each_device_its_part(model):
    moved = collectives.by_kind(ran("scatter", model).hlo)
    assert moved["reduce-scatter"] == SIZE / 8
    assert moved["all-reduce"] < SIZE / model / 2
    assert {*moved} == {"all-reduce", "reduce-scatter"}


def test_replay_moves_a_number_a_member():
    moved = collectives.by_kind(ran("replay", 1).hlo)
    assert moved["all-gather"] == N // 2, "of each pair its weight"
    assert moved["all-reduce"] < 2 * N


def test_mixed_sums_within_a_host_what_all_hosts_were_told():
    moved = collectives.by_kind(ran("mixed", 1).hlo)
    assert moved["all-gather"] == N // 2
    assert moved["all-reduce"] < 1.1 * SIZE
    groups = "{{0,1,2,3},{4,5,6,7}}"
    assert f"replica_groups={groups}" in ran("mixed", 1).hlo


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", [1, 2])
def test_noise_and_weights_stay_where_they_are(way, model):
    for one in collectives.sent(ran(way, model).hlo):
        assert not one.types & {"s8", "u8", "s32", "u32"}, "noise was moved"
        assert one.kind != "all-gather" or one.elements < WIDTH, "a weight was gathered"


def test_a_device_draws_and_evaluates_its_own_members_alone(monkeypatch):
    def flops(devices: int) -> float:
        spread = eggroll.population_mesh(jax.devices()[:devices])
        es = eggroll.EvolutionStrategy(512, 0.1, mesh=spread)
        ask = lambda w: es.ask(lambda w: jnp.tanh(jnp.tanh(w).sum(0)))(w, KEY)
        compiled = quick.jit(ask).lower(jnp.ones((4, 32))).compile()
        costs: Any = compiled.cost_analysis()
        return costs["flops"]

    share = flops(8) / flops(1)
    assert share == pytest.approx(1 / 8, rel=0.1)
    usual, whole = sharding.spread, P()
    replicated = functools.partial(usual, rows=whole, results=whole)
    monkeypatch.setattr(sharding, "spread", replicated)
    assert flops(8) / flops(1) > 0.9  # as it would be seen if all did all


def test_members_are_summed_once_unless_they_are_replayed():
    flops = {way: ran(way, 1).flops for way in WAYS}
    assert flops["replay"] - flops["reduce"] > 0.8 * SIZE * N / 2 * (1 - 1 / 8)
    assert flops["scatter"] < 1.05 * flops["reduce"]


@pytest.mark.slow
@pytest.mark.parametrize("model", [1, 2])
def test_an_optimiser_outside_keeps_what_is_scattered(model):
    mesh = eggroll.population_mesh(jax.devices()[:8], model=model)
    partition = PARTITION if model > 1 else {}
    es = eggroll.EvolutionStrategy(
        N, 0.1, mesh=mesh, partition=partition, update="scatter"
    )
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1))

    @quick.jit
    def step(params, state):
        _, grads = es.value_and_grad(loss)(params, KEY, X)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = parameters()
    params = jax.device_put(params, eggroll.shardings(params, mesh, partition))
    params, state = step(params, quick.jit(optimizer.init)(params))
    moments = state[1][0].mu
    for name in ("up", "down"):
        shard = moments[name].addressable_shards[0].data
        assert shard.size == SIZE / 2 / 8, "an eighth of it on each device"
    plain = parameters()
    grads = ran("reduce", None).grads
    updates, _ = optimizer.update(grads, optimizer.init(plain), plain)
    expected = optax.apply_updates(plain, updates)
    np.testing.assert_allclose(params["up"], expected["up"], atol=1e-4)


def test_a_population_of_one_device_shares_its_model():
    found, expected = ran("mixed", 8), ran("mixed", None)
    assert lies(found.grads["up"]) == (None, "model")
    np.testing.assert_allclose(found.grads["up"], expected.grads["up"], atol=1e-5)


def test_parameters_that_lie_somewhere_need_no_rules():
    mesh = eggroll.population_mesh(jax.devices()[:8], model=2)
    params = parameters()
    params = jax.device_put(params, eggroll.shardings(params, mesh, PARTITION))
    es = eggroll.EvolutionStrategy(N, 0.1, mesh=mesh)
    generation = es.generation(loss)(params, KEY, X)
    found = {layout.path: layout.spec for layout in generation.layouts}
    assert found == {"up": P(None, "model"), "down": P("model"), "odd": P()}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_explicit_axes_tell_how_parameters_lie(way):
    kinds = (AxisType.Auto, AxisType.Explicit)
    mesh = jax.make_mesh((4, 2), ("population", "model"), kinds)
    params = parameters()
    with jax.set_mesh(mesh):
        split = {"down": P(None, "model")}  # rows would need a model that says how
        params = jax.device_put(params, eggroll.shardings(params, mesh, split))
        es = eggroll.EvolutionStrategy(N, 0.1, mesh=mesh, update=way)
        grads = quick.jit(es.grad(loss))(params, KEY, X)
    own = "population" if way == "scatter" else None
    assert lies(grads["down"]) == (own, "model")
    expected = ran("reduce", None).grads["down"]
    np.testing.assert_allclose(grads["down"], expected, atol=1e-5)


@pytest.mark.slow
def test_integers_vote_alike_in_every_way():
    params = {"w": jnp.full((16, 24), 3, jnp.int8)}

    def score(params, x):
        out = jax.lax.dot(x, params["w"], preferred_element_type=jnp.int32)
        return -jnp.abs(out - 7).sum()

    x = jnp.arange(16, dtype=jnp.int8)[None]

    def votes(way, mesh):
        es = eggroll.IntegerStrategy(N, mesh=mesh, update=way)
        fitness, generation = es.ask(score)(params, KEY, x)
        return es.votes(generation, fitness)["w"]

    mesh = eggroll.population_mesh(jax.devices()[:8])
    expected = quick.jit(lambda: votes("reduce", None))()
    found = quick.jit(lambda: [votes(way, mesh) for way in WAYS])()
    for one in found:
        np.testing.assert_array_equal(one, expected)


# --- What is said of it


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match=r"update must be one of reduce, scatter"):
        eggroll.EvolutionStrategy(N, 0.1, update="gossip")


REFUSED = {
    "no such axis": (
        {"up": P("heads")},
        r"up is divided over 'heads', expected .*model",
    ),
    "the population's": ({"up": P("population")}, r"up is divided over 'population'"),
    "too many": ({"odd": P(None, "model")}, r"odd has 1 dimensions, .* divide 2"),
    "unequal": ({"odd": P("model")}, r"dimension 0 of odd, of size 5, .* into 2 equal"),
    "no leaf": ({"left": P("model")}, r"the rule 'left' matches no leaf"),
}


@pytest.mark.parametrize(("partition", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_a_partition_that_cannot_be_is_refused(partition, said):
    mesh = eggroll.population_mesh(jax.devices()[:8], model=2)
    with pytest.raises(ValueError, match=said):
        eggroll.shardings(parameters(), mesh, partition)
    es = eggroll.EvolutionStrategy(N, 0.1, mesh=mesh, partition=partition)
    with pytest.raises(ValueError, match=said):
        es.generation(loss)(parameters(), KEY, X)


def test_a_model_is_shared_by_neighbours():
    with pytest.raises(ValueError, match=r"model must divide .*, 8 \(8 devices, of 1"):
        eggroll.population_mesh(jax.devices()[:8], model=3)


def test_the_metadata_of_flax_are_rules():
    mesh = eggroll.population_mesh(jax.devices()[:8], model=2)
    split = nnx.with_partitioning(nnx.initializers.ones, (None, "model"))
    with jax.set_mesh(mesh):
        model = nnx.Linear(4, 6, kernel_init=split, rngs=nnx.Rngs(0))
    found = eggroll.partition_of(nnx.get_partition_spec(nnx.state(model)))
    assert found["kernel"] == P(None, "model")
    es = eggroll.EvolutionStrategy(N, 0.1, mesh=mesh, partition=found)
    grad = quick.jit(es.grad(lambda model, x: jnp.mean(model(x) ** 2)))
    grads = grad(model, KEY, jnp.ones((3, 4)))
    assert lies(grads["kernel"].get_value()) == (None, "model")


def test_the_metadata_of_linen_are_rules():
    split = linen.with_partitioning(linen.initializers.ones, (None, "model"))
    model = linen.Dense(6, kernel_init=split)
    boxed = jax.eval_shape(model.init, KEY, jnp.ones((3, 4)))
    found = eggroll.partition_of(linen.get_partition_spec(boxed))
    assert found["params/kernel"] == P(None, "model")
