import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import eggroll
from models.conv import ConvNet
from models.recurrent import GRU
from tasks.control import Control
from tasks.control.networks import Network


def test_gru_output_and_memory_are_the_formula_spelt_out(getkey):
    model = GRU(3, 2, hidden=(5, 4), activation="tanh", rngs=nnx.Rngs(0))
    x, h = jax.random.normal(getkey(), (3,)), jax.random.normal(getkey(), (4,))
    outputs, memory = model(x, h)
    (layer,) = model.layers
    p = nnx.to_pure_dict(nnx.state(model.cell))
    r, z, n = jnp.split(
        jnp.tanh(layer(x)) @ p["dense_i"]["kernel"] + p["dense_i"]["bias"], 3
    )
    r_h, z_h, n_h = jnp.split(h @ p["dense_h"]["kernel"], 3)
    r, z = nnx.sigmoid(r + r_h), nnx.sigmoid(z + z_h)
    bias = p["dense_h"].get("bias", jnp.zeros(12))[8:]
    expected = (1 - z) * jnp.tanh(n + r * (n_h + bias)) + z * h
    np.testing.assert_allclose(memory, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs, model.head(memory), rtol=1e-6)


def test_conv_net_is_translation_equivariant_before_its_dense_layer(getkey):
    model = ConvNet((8, 8, 2), 3, hidden=(4, 16), rngs=nnx.Rngs(0))
    image = (
        jnp.zeros((8, 8, 2)).at[2:5, 2:5].set(jax.random.normal(getkey(), (3, 3, 2)))
    )
    (convolution,) = model.convolutions
    shifted = convolution(jnp.roll(image, 1, axis=0))
    np.testing.assert_allclose(
        shifted[2:6], jnp.roll(convolution(image), 1, axis=0)[2:6], rtol=1e-5, atol=1e-6
    )
    assert model(image).shape == (3,)


@pytest.mark.slow
def test_conv_net_maps_over_leading_axes_and_strides_shrink(getkey):
    model = ConvNet((7, 6, 1), 2, hidden=(4, 4, 8), strides=2, rngs=nnx.Rngs(0))
    x = jax.random.normal(getkey(), (2, 3, 7, 6, 1))
    each = jax.vmap(jax.vmap(model))(x)
    np.testing.assert_allclose(model(x), each, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda r: ConvNet((4,), 2, rngs=r), "For vectors take"),
        (lambda r: ConvNet((4, 4, 1), 2, hidden=(8,), rngs=r), "at least two"),
        (lambda r: GRU(2, 2, hidden=(), rngs=r), "needs a hidden layer"),
    ],
)
def test_impossible_models_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(nnx.Rngs(0))


@pytest.mark.parametrize("kind", ["mlp", pytest.param("gru", marks=pytest.mark.slow)])
@pytest.mark.parametrize("shared", [pytest.param(True, marks=pytest.mark.slow), False])
def test_each_agent_of_a_team_is_a_network_of_its_own(kind, shared, getkey):
    """With shared parameters the same one, with its own memory in either case."""
    options = {"hidden": (6,), "activation": "tanh"}
    team = Network(kind, (3,), 2, agents=4, shared=shared, **options)
    single = Network(kind, (3,), 2, **options)
    params, x = team.init(getkey()), jax.random.normal(getkey(), (4, 3))
    together, memories = team(params, x, team.memory)
    together, _ = team(params, x, memories)
    for i in range(4):
        own = params if shared else jax.tree.map(lambda leaf, i=i: leaf[i], params)
        alone, memory = single(own, x[i], single.memory)
        alone, _ = single(own, x[i], memory)
        np.testing.assert_allclose(together[i], alone, rtol=1e-5, atol=1e-6)
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    one = [leaf.size for leaf in jax.tree.leaves(single.init(getkey()))]
    assert sum(sizes) == sum(one) * (1 if shared else 4)


def test_observations_are_flattened_except_for_spatial_networks(getkey):
    x = jax.random.normal(getkey(), (5, 4, 2))
    for kind, hidden in (("mlp", (8,)), ("conv", (3, 8))):
        network = Network(kind, (5, 4, 2), 3, hidden=hidden, activation="relu")
        outputs, _ = network(network.init(getkey()), x, network.memory)
        assert outputs.shape == (3,)


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ("gymnax/CartPole-v1", {"network": "mlp", "hidden": (8, 8)}),
        ("gymnax/CartPole-v1", {"network": "gru", "hidden": (8, 8)}),
        ("gymnax/Catch-bsuite", {"network": "mlp", "hidden": (8,)}),
        ("jaxmarl/MPE_simple_spread_v3", {"hidden": (8,)}),
        ("jaxmarl/MPE_simple_spread_v3", {"hidden": (8,), "shared": False}),
    ],
)
def test_the_engine_writes_no_weight_out_in_a_rollout(environment, options):
    """Every member runs whole episodes at the price of inference."""
    pytest.importorskip(environment.split("/")[0])
    task = Control(environment=environment, max_steps=5, **options)
    params, key = task.init(jax.random.key(0)), jax.random.key(1)
    data = task.batch(task.initial_state(), 0, key)
    fitness = lambda params, data: task.evaluate(params, data, (), key)[0]
    assert eggroll.coverage(fitness, params, data).written_out == ()
