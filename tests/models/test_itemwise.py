import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.itemwise import Itemwise


ITEMS, FEATURES = 5, 3
MODEL = Itemwise(
    ITEMS * FEATURES, ITEMS, hidden=(8,), activation="tanh", rngs=nnx.Rngs(0)
)


def test_a_permutation_of_the_items_permutes_the_outputs():
    x = jax.random.normal(jax.random.key(0), (FEATURES, ITEMS))
    order = jnp.array([3, 0, 4, 1, 2])
    permuted = MODEL(x[:, order].reshape(-1))
    np.testing.assert_allclose(permuted, MODEL(x.reshape(-1))[order], rtol=1e-5)


def test_an_item_is_judged_by_its_own_features_and_the_mean():
    x = jax.random.normal(jax.random.key(1), (FEATURES, ITEMS))
    expected = [MODEL.each(jnp.concatenate([one, x.mean(axis=1)]))[0] for one in x.T]
    np.testing.assert_allclose(MODEL(x.reshape(-1)), expected, rtol=1e-5, atol=1e-6)


def test_leading_axes_are_mapped_over():
    x = jax.random.normal(jax.random.key(2), (4, ITEMS * FEATURES))
    np.testing.assert_allclose(MODEL(x), jax.vmap(MODEL)(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("inputs", [4, 7])
def test_items_with_different_features_are_refused(inputs):
    with pytest.raises(ValueError, match="multiple of 5 inputs"):
        Itemwise(inputs, ITEMS, rngs=nnx.Rngs(0))
