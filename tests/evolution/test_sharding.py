"""The population over eight (simulated) devices gives what one device gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from jax import lax
from jax.sharding import AxisType, Mesh, PartitionSpec as P

import eggroll
from eggroll import EvolutionStrategy


KEY = jax.random.key(0)
PARAMS = {
    "w": jnp.arange(12.0).reshape(4, 3) / 12,
    "b": jnp.ones(3),
    "whole": jnp.arange(3),
}
N = 32
pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")


def mesh(devices=8):
    return eggroll.population_mesh(jax.devices()[:devices])


def fitness(params, x, key):
    shift = 0.01 * jax.random.normal(key, (3,))
    out = jnp.tanh(x @ params["w"] + params["b"] + shift) * params["whole"]
    return -jnp.mean(out**2), out


def run(devices, in_axes=0, **settings):
    spread = mesh(devices) if devices else None
    es = EvolutionStrategy(N, sigma=0.1, mesh=spread, noise="gaussian", **settings)
    rows = jnp.linspace(-1, 1, 4 * (N if in_axes == 0 else 1)).reshape(-1, 4)
    x = rows if in_axes == 0 else rows[0]
    everything = es.value_and_grad(
        fitness=fitness, in_axes=in_axes, has_aux=True, value="members"
    )
    return quick.jit(everything)(PARAMS, KEY, x, step=3)


SETTINGS = {
    "a row a member": {},
    "shared": {"in_axes": None},
    "chunks": {"chunk_size": 3},
    "without pairs": {"antithetic": False},
}


DEAR = ("shared", "without pairs")


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(x, marks=[pytest.mark.slow] if name in DEAR else [], id=name)
        for name, x in SETTINGS.items()
    ],
)
def test_eight_devices_give_what_one_gives(settings):
    (value, out), grads = run(8, **settings)
    (expected_value, expected_out), expected = run(None, **settings)
    np.testing.assert_allclose(out, expected_out, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    assert grads["whole"] is None
    for k in ("w", "b"):
        np.testing.assert_allclose(grads[k], expected[k], rtol=1e-4, atol=1e-5)


def test_noise_is_the_same_to_the_bit():
    def members(spread):
        es = EvolutionStrategy(N, sigma=1.0, mesh=spread, noise="gaussian")
        return quick.jit(es.ask(lambda p: (p, jnp.ones(4) @ p)))(PARAMS["w"] * 0, KEY)

    (one, _), _ = members(None)
    (eight, _), _ = members(mesh())
    np.testing.assert_array_equal(one, eight)


def test_groups_are_those_of_the_whole_population():
    read = lambda params, x: x + 0 * jnp.sum(params["b"])
    es = EvolutionStrategy(N, sigma=0.1, mesh=mesh())
    outputs, _ = quick.jit(es.ask(read, in_axes=0))(PARAMS, KEY, jnp.arange(4.0))
    np.testing.assert_array_equal(outputs, np.repeat(np.arange(4.0), N // 4))


def test_members_and_their_outputs_lie_on_all_devices():
    (_, out), grads = run(8)
    assert len(out.sharding.device_set) == 8
    assert out.addressable_shards[0].data.shape[0] == N // 8
    assert grads["w"].sharding.is_fully_replicated


def test_the_smallest_mesh_is_one_device():
    (_, out), grads = run(1)
    (_, expected_out), expected = run(None)
    np.testing.assert_allclose(out, expected_out, rtol=1e-6)
    np.testing.assert_allclose(grads["w"], expected["w"], rtol=1e-5)


def test_a_function_may_close_over_what_is_traced():
    es = EvolutionStrategy(N, sigma=0.1, mesh=mesh())

    @quick.jit
    def both(x):
        score = lambda params: jnp.sum(x @ params["w"])
        return es.value_and_grad(fitness=score)(PARAMS, KEY)

    _, grads = both(jnp.ones(4))
    assert np.any(grads["w"])


@pytest.mark.slow
def test_a_mesh_may_have_other_axes():
    devices = np.array(jax.devices()[:8]).reshape(4, 2)
    both = Mesh(devices, ("population", "model"), axis_types=(AxisType.Auto,) * 2)
    es = EvolutionStrategy(N, sigma=0.1, mesh=both)
    score = lambda params: jnp.sum(jnp.ones(4) @ params["w"])
    value, _ = quick.jit(es.value_and_grad(fitness=score))(PARAMS, KEY)
    one = EvolutionStrategy(N, sigma=0.1)
    expected, _ = quick.jit(one.value_and_grad(fitness=score))(PARAMS, KEY)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


# --- Within a shard_map of the caller's


DEVICES = 2
DEEP = {
    "embed": jnp.linspace(-1, 1, 15).reshape(5, 3),
    "first": jnp.linspace(-1, 1, 12).reshape(4, 3),
    "layers": jnp.linspace(1, -1, 18).reshape(2, 3, 3),
    "bias": jnp.ones(3),
    "whole": jnp.arange(3),
}
BATCH = {
    "x": jnp.linspace(-1, 1, 6 * 4).reshape(6, 4) ** 2,
    "token": jnp.arange(6) % 5,
}


@jax.custom_vjp
def squash(x):
    return jnp.tanh(x)


squash.defvjp(lambda x: (squash(x), x), lambda x, g: (g * (1 - jnp.tanh(x) ** 2),))


def deep(params, batch):
    """A loss with plain constants and functions of all kinds within each other."""
    h = batch["x"] @ params["first"] + params["bias"] + params["embed"][batch["token"]]
    layer = jax.checkpoint(lambda h, w: (squash(h @ w) + 1, h.sum()))
    h, sums = lax.scan(layer, h, params["layers"])
    turn = lambda i, h: jax.jit(jnp.tanh)(h @ params["layers"][i])
    h = lax.fori_loop(0, 2, turn, h) * params["whole"]
    h = lax.cond(h.sum() > 0, lambda h: h + 1, lambda h: 2 * h, h)
    return jnp.mean((h - 1) ** 2) + 0.1 * sums.mean()


def noisy(params, batch, key):
    shift = jax.random.normal(key, batch["x"].shape)
    return deep(params, {**batch, "x": batch["x"] + shift})


def linear(params, batch):
    return jnp.mean((batch["x"] @ params["first"]) ** 2)


def own_key(key):
    return jax.random.fold_in(key, lax.axis_index("data"))


def by_shards(step, **options):
    """What each device computes, under a leading dimension."""
    data = Mesh(np.array(jax.devices()[:DEVICES]), ("data",))
    specs = {"in_specs": (P(), P(), P("data")), "out_specs": P("data")}
    lead = lambda *args: jax.tree.map(lambda x: x[None], step(*args))
    run = jax.shard_map(lead, mesh=data, **specs, **options)
    return quick.jit(run)(DEEP, KEY, BATCH)


def by_turns(step):
    """The same, without devices."""
    n = BATCH["x"].shape[0] // DEVICES
    shards = jax.tree.map(lambda x: x.reshape(DEVICES, n, *x.shape[1:]), BATCH)
    turn = jax.vmap(lambda batch: step(DEEP, KEY, batch), axis_name="data")
    return quick.jit(turn)(shards)


def assert_close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


FULL = {"rank": 2, "noise": "gaussian", "antithetic": False, "chunk_size": 3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "settings"),
    [(False, {}), (True, FULL)],
    ids=["one key, at once", "a key each, in chunks"],
)
def test_each_shard_gets_value_and_gradient_of_its_own_data(own, settings):
    es = EvolutionStrategy(8, sigma=0.1, **settings)
    score = noisy if own else deep

    def step(params, key, batch):
        key = own_key(key) if own else key
        return es.value_and_grad(loss=score)(params, key, batch)

    expected = by_turns(step)
    assert_close(by_shards(step), expected)
    assert_close(by_shards(step, check_vma=False), expected)


def test_a_loss_may_talk_to_other_devices():
    es = EvolutionStrategy(8, sigma=0.1, chunk_size=4)

    def loss(params, batch):
        wide = lax.all_gather(batch["x"] @ params["first"], "data")
        bias = lax.psum(params["bias"], "data") + lax.axis_index("data")
        h = jnp.tanh(batch["x"] @ params["first"] + bias)
        return lax.pmean(jnp.mean(h**2), "data") + wide.mean()

    def step(params, key, batch):
        return es.value_and_grad(loss=loss)(params, own_key(key), batch)

    assert_close(by_shards(step), by_turns(step))


def test_the_mean_over_shards_is_the_loss_of_all_data():
    es = EvolutionStrategy(8, sigma=0.1)
    mean = lambda params, batch: lax.pmean(linear(params, batch), "data")
    data = Mesh(np.array(jax.devices()[:DEVICES]), ("data",))
    # The result is the same on all devices, and the check of that passes.
    run = jax.shard_map(
        es.value_and_grad(loss=mean),
        mesh=data,
        in_specs=(P(), P(), P("data")),
        out_specs=P(),
    )
    expected = quick.jit(es.value_and_grad(loss=linear))(DEEP, KEY, BATCH)
    assert_close(quick.jit(run)(DEEP, KEY, BATCH), expected)


def test_parameters_made_to_vary_keep_their_low_rank():
    es = EvolutionStrategy(8, sigma=0.1, strict=True)

    def score(params, batch):
        own = lax.pcast(params["first"], "data", to="varying")
        return jnp.mean((batch["x"] @ own) ** 2)

    def step(params, key, batch):
        return es.value_and_grad(loss=score)(params, key, batch)

    expected = lambda *args: es.value_and_grad(loss=linear)(*args)
    assert_close(by_shards(step), by_turns(expected))


@pytest.mark.slow
def test_scores_of_each_shard_make_its_gradient():
    es = EvolutionStrategy(8, sigma=0.1)

    def step(params, key, batch):
        losses, generation = es.ask(linear)(params, own_key(key), batch)
        return losses, es.gradient(generation, -losses)

    assert_close(by_shards(step), by_turns(step))


@pytest.mark.slow
def test_pmap_gives_what_one_device_gives():
    es = EvolutionStrategy(8, sigma=0.1, chunk_size=4)
    mean = lambda params, batch: lax.pmean(linear(params, batch), "data")

    def step(params, key, batch):
        return es.value_and_grad(loss=mean)(params, key, batch)

    shards = jax.tree.map(lambda x: x.reshape(DEVICES, -1, *x.shape[1:]), BATCH)
    run = jax.pmap(step, "data", in_axes=(None, None, 0))
    assert_close(run(DEEP, KEY, shards), by_turns(step))


def test_a_mesh_within_a_shard_map_is_refused():
    es = EvolutionStrategy(N, sigma=0.1, mesh=mesh())
    message = r"cannot be done within jax.shard_map.*\('data',\).*leave mesh= away"
    with pytest.raises(ValueError, match=message):
        by_shards(lambda *args: es.value_and_grad(loss=deep)(*args))


# --- Bad input


@pytest.mark.parametrize(
    ("population", "antithetic", "message"),
    [
        (
            20,
            True,
            r"multiple of 16 \(8 devices, whole pairs on each\), got 20; use 32",
        ),
        (20, False, r"multiple of 8 \(8 devices\), got 20; use 24"),
    ],
)
def test_a_population_that_does_not_divide_is_refused(population, antithetic, message):
    with pytest.raises(ValueError, match=message):
        EvolutionStrategy(population, sigma=0.1, antithetic=antithetic, mesh=mesh())


def test_a_mesh_without_the_axis_is_refused():
    data = Mesh(np.array(jax.devices()[:8]), ("data",))
    with pytest.raises(
        ValueError, match=r"axis named 'population', got axes \('data',\)"
    ):
        EvolutionStrategy(N, sigma=0.1, mesh=data)


# --- Chunks
