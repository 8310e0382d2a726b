import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.activations import ACTIVATIONS, activation, pqn
from models.mlp import MLP, PaperMLP


def make(**options) -> MLP:
    return MLP(
        3, 2, **{"hidden": (8, 8), "activation": "tanh", **options}, rngs=nnx.Rngs(0)
    )


def test_output_is_the_formula_spelt_out(getkey):
    model, x = make(), jax.random.normal(getkey(), (3,))
    h = x
    params = nnx.to_pure_dict(nnx.state(model))
    for layer in params["layers"].values():
        h = jnp.tanh(h @ layer["kernel"] + layer["bias"])
    expected = h @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(model(x), expected, rtol=1e-6)


def test_the_paper_s_network_has_no_bias_in_its_first_layer_alone(getkey):
    options = {"hidden": (8, 8), "activation": "pqn", "rngs": nnx.Rngs(0)}
    model, x = PaperMLP(3, 2, **options), jax.random.normal(getkey(), (3,))
    p = nnx.to_pure_dict(nnx.state(model))
    assert set(p["layers"][0]) == {"kernel"}
    h = pqn(x @ p["layers"][0]["kernel"])
    h = pqn(h @ p["layers"][1]["kernel"] + p["layers"][1]["bias"])
    expected = h @ p["head"]["kernel"] + p["head"]["bias"]
    np.testing.assert_allclose(model(x), expected, rtol=1e-6)


def test_leading_axes_are_mapped_over(getkey):
    model, x = make(), jax.random.normal(getkey(), (4, 5, 3))
    each = jax.vmap(jax.vmap(model))(x)
    np.testing.assert_allclose(model(x), each, rtol=1e-5, atol=1e-6)


def test_without_hidden_layers_it_is_a_linear_map(getkey):
    model = make(hidden=())
    x, y = jax.random.normal(getkey(), (2, 3))
    np.testing.assert_allclose(model(x + y), model(x) + model(y), rtol=1e-5)


def test_head_scale_scales_the_first_outputs(getkey):
    x = jax.random.normal(getkey(), (3,))
    small, large = make(head_scale=0.01)(x), make(head_scale=1.0)(x)
    np.testing.assert_allclose(100 * small, large, rtol=1e-4)


def test_pqn_is_the_rectified_layer_norm_without_parameters(getkey):
    x = 5 + 3 * jax.random.normal(getkey(), (6, 32))
    norm = nnx.LayerNorm(32, use_bias=False, use_scale=False, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(pqn(x), nnx.relu(norm(x)), rtol=1e-5, atol=1e-6)


def test_pqn_ignores_scale_and_offset_of_its_input(getkey):
    x = jax.random.normal(getkey(), (32,))
    np.testing.assert_allclose(pqn(x), pqn(7 * x - 2), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_keeps_the_shape(name, getkey):
    x = jax.random.normal(getkey(), (4, 5))
    assert activation(name)(x).shape == x.shape


def test_unknown_activation_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'tanh'"):
        make(activation="tahn")


@pytest.mark.parametrize("hidden", [(0,), (8, -1)])
def test_sizes_below_one_are_refused(hidden):
    with pytest.raises(ValueError, match="sizes of at least 1"):
        make(hidden=hidden)
