"""What surrounds an operation in the user's function surrounds it in every member.

JAX enters the context of an equation when it evaluates it: mesh, named scopes, metadata
for XLA, the line in the user's code. So does the interpreter.
"""

import inspect
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from jax import lax
from jax.experimental.compute_on import compute_on
from jax.experimental.xla_metadata import set_xla_metadata
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
from jaxprs import equations

import eggroll
from eggroll import EvolutionStrategy


KEY = jax.random.key(0)
N = 8
devices = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")


def on_host(function):
    if "out_memory_spaces" not in inspect.signature(compute_on).parameters:
        return compute_on("device_host")(function)  # JAX 0.10
    there = jax.memory.Space.Device
    return compute_on(function, compute_type="device_host", out_memory_spaces=there)


def scoped(params, x):
    with jax.named_scope("embedding"):
        h = x @ params["first"]

    def layer(h, w):
        with jax.named_scope("attention"):
            return jnp.tanh(h @ w), None

    with jax.named_scope("layers"):
        h, _ = lax.scan(layer, h, params["layers"])

    @jax.jit
    def normalised(h):
        with jax.named_scope("norm"):
            return h / jnp.sum(h**2)

    with jax.named_scope("head"), set_xla_metadata(mine="told"):
        h = normalised(h)
    return jnp.sum(on_host(jnp.sin)(h))


def test_profiles_name_blocks_and_metadata_reaches_xla():
    params = {"first": jnp.ones((4, 4)), "layers": jnp.ones((2, 4, 4))}
    ask = jax.jit(EvolutionStrategy(N, sigma=0.1).ask(scoped))
    text = ask.lower(params, KEY, jnp.ones(4)).as_text(debug_info=True)
    for scope in ("vmap(embedding)/dot", "vmap(layers)/while", "attention/tanh"):
        assert scope in text
    assert "layers/attention/layers" not in text
    assert "head" in text
    assert "norm" in text
    assert 'mine = "told"' in text
    assert '_xla_compute_type = "host"' in text  # what `compute_on` asked for


def test_the_locations_of_operations_are_those_in_the_user_s_code():
    params = {"first": jnp.ones((4, 4)), "layers": jnp.ones((2, 4, 4))}
    es = EvolutionStrategy(N, sigma=0.1)
    closed = jax.make_jaxpr(es.ask(scoped))(params, KEY, jnp.ones(4))
    (tanh,) = (e for e in equations(closed) if e.primitive.name == "tanh")
    lines = str(tanh.source_info.traceback)
    assert "test_contexts.py" in lines
    assert "scoped" in lines
    assert "rebind" not in lines


def test_an_error_in_a_member_points_to_the_line_of_the_user():
    def loss(params):
        return jnp.sum(jnp.sin(params))  # the line to be named

    es = EvolutionStrategy(N, sigma=0.1, strict=True, rules={"**": eggroll.low_rank(1)})
    with pytest.raises(ValueError, match="written out") as caught:
        es.value_and_grad(loss)(jnp.ones((4, 4)), KEY)
    told = "".join(traceback.format_exception(caught.value))
    assert "# the line to be named" in told


# --- Meshes with explicit axes


PARAMS = {
    "embed": jnp.arange(32.0).reshape(8, 4) / 32,
    "up": jnp.arange(32.0).reshape(4, 8) / 32 - 0.5,
    "down": jnp.arange(32.0).reshape(8, 4) / 32 - 0.3,
    "heads": jnp.arange(32.0).reshape(4, 8) / 32,
}
SPECS = {
    "embed": P(None, None),
    "up": P(None, "model"),
    "down": P("model", None),
    "heads": P(None, "model"),
}
TOKENS = jnp.array([1, 2, 5])


def projections(params, tokens, sharding):
    """A tensor-parallel network; `sharding` makes of specs what says them."""
    h = params["embed"].at[tokens].get(**sharding(None, None))
    h = jnp.tanh(jnp.dot(h, params["up"], **sharding(None, "model")))
    h = jnp.dot(h, params["down"], **sharding(None, None))
    # the weight on the left, and cut into heads
    other = jnp.dot(params["up"].T, h.T, **sharding("model", None))
    heads = params["heads"].reshape(4, 2, 4)
    apart = jnp.einsum("td,dhk->htk", h, heads, **sharding("model", None, None))
    table = jnp.cumsum(tokens)  # plain data, and functions within functions
    even = lax.cond(table[0] > 0, jnp.sum, jnp.max, table)
    step = lambda i, h: jax.jit(jnp.tanh)(h + i) * jnp.where(table[:, None] > 1, h, 1)
    h = lax.fori_loop(0, 2, step, h)
    return -jnp.mean((h - 1) ** 2) + jnp.mean(other**2) * even + jnp.mean(apart**3)


def said(*spec):
    return {"out_sharding": P(*spec)}


def unsaid(*spec):
    return {}


def divided(mesh):
    return {
        k: jax.device_put(x, NamedSharding(mesh, SPECS[k])) for k, x in PARAMS.items()
    }


@pytest.fixture(scope="module")
def expected():
    es = EvolutionStrategy(N, sigma=0.1)
    loss = lambda params, tokens: projections(params, tokens, unsaid)
    return quick.jit(es.value_and_grad(loss, value="members"))(PARAMS, KEY, TOKENS)


def meshes():
    few = Mesh(jax.devices()[:2], ("model",), axis_types=(AxisType.Explicit,))
    many = Mesh(
        np.array(jax.devices()[:8]).reshape(4, 2),
        ("population", "model"),
        axis_types=(AxisType.Auto, AxisType.Explicit),
    )
    return {"model alone": (few, None), "population, too": (many, many)}


@devices
@pytest.mark.parametrize("name", ["model alone", "population, too"])
def test_explicit_tensor_parallelism_gives_what_one_device_gives(name, expected):
    mesh, spread = meshes()[name]
    es = EvolutionStrategy(N, sigma=0.1, mesh=spread, strict=True)
    loss = lambda params, tokens: projections(params, tokens, said)
    with jax.set_mesh(mesh):
        step = es.value_and_grad(loss, value="members")
        value, grads = quick.jit(step)(divided(mesh), KEY, TOKENS)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    for k in PARAMS:
        np.testing.assert_allclose(grads[k], expected[1][k], rtol=1e-4, atol=1e-5)


@devices
def test_products_in_explicit_meshes_are_low_rank_and_lie_where_asked():
    mesh, _ = meshes()["model alone"]

    def up(params, x):
        h = jnp.dot(x, params["up"], out_sharding=P(None, "model"))
        assert jax.typeof(h).sharding.spec == P(None, "model")
        assert jax.typeof(params["up"]).sharding.spec == P(None, "model")
        return h

    with jax.set_mesh(mesh):
        params, x = {"up": divided(mesh)["up"]}, jnp.ones((3, 4))
        (leaf,) = eggroll.coverage(up, params, x).leaves
        out, _ = jax.jit(EvolutionStrategy(N, sigma=0.1).ask(up))(params, KEY, x)
    assert leaf.layout.cols
    assert not leaf.materialised
    assert out.sharding.spec == P(None, None, "model")


@pytest.mark.slow
@devices
def test_what_is_carried_keeps_the_sharding_in_its_type():
    mesh, _ = meshes()["model alone"]
    es = EvolutionStrategy(N, sigma=0.1, strict=True)

    def deep(params, x):
        def layer(h, _):
            h = jnp.dot(h, params["up"], out_sharding=P(None, "model"))
            return jnp.dot(h, params["down"], out_sharding=P("model", None)), None

        return lax.scan(layer, x, length=2)[0]

    with jax.set_mesh(mesh):
        x = jax.device_put(jnp.ones((2, 4)), NamedSharding(mesh, P("model", None)))
        outs, generation = jax.jit(es.ask(deep))(divided(mesh), KEY, x)
        member = es.member(generation, divided(mesh), 3)
        np.testing.assert_allclose(outs[3], jax.jit(deep)(member, x), rtol=1e-5)


@devices
def test_partial_sums_that_stay_apart_are_written_out():
    mesh, _ = meshes()["model alone"]

    def down(params, x):
        x = jax.sharding.reshard(x, P(None, "model"))
        h = jnp.dot(
            x,
            params["down"],
            out_sharding=P(None, None, unreduced=frozenset({"model"})),
        )
        return jax.sharding.reshard(h, P(None, None))

    with jax.set_mesh(mesh):
        params = {"down": divided(mesh)["down"]}
        (leaf,) = eggroll.coverage(down, params, jnp.ones((3, 8))).leaves
    assert leaf.materialised == ("dot_general",)


@pytest.mark.slow
@devices
def test_the_mesh_of_a_strategy_may_have_an_explicit_population():
    mesh = jax.make_mesh((8,), ("population",), axis_types=(AxisType.Explicit,))
    loss = lambda w: jnp.sum((jnp.ones(4) @ w) ** 2)
    w = jnp.ones((4, 3))
    spread = EvolutionStrategy(16, sigma=0.1, mesh=mesh).value_and_grad(loss)
    _, grads = quick.jit(spread)(w, KEY)
    _, alone = quick.jit(EvolutionStrategy(16, sigma=0.1).value_and_grad(loss))(w, KEY)
    np.testing.assert_allclose(grads, alone, rtol=1e-4, atol=1e-5)
    with (
        jax.set_mesh(mesh),
        pytest.raises(ValueError, match=r"set_mesh is Explicit.*make that axis Auto"),
    ):
        spread(w, KEY)
