"""Views of a perturbed array are views of the array it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from eggroll import Perturbed
from eggroll.perturbation import joins, views


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(shape).normal(size=shape), jnp.float32)


LAYERS = Perturbed.matrix(normal(2, 4, 6), normal(2, 4, 3), normal(2, 6, 3), 0.1)
SHARED = Perturbed(normal(2, 4, 6), [normal(1, 4, 1, 3), normal(1, 1, 6, 3)], 0.1)
FULL = Perturbed(normal(2, 4, 6), [normal(2, 4, 6, 1)], 0.1)
LEAVES = {"layers": LAYERS, "shared factors": SHARED, "full rank": FULL}

# name: (the view, the same of an ordinary array)
VIEWS = {
    "transpose": (
        lambda x: views.transpose(x, (2, 0, 1)),
        lambda x: jnp.transpose(x, (2, 0, 1)),
    ),
    "reshape, split": (
        lambda x: views.reshape(x, (2, 2, 2, 3, 2)),
        lambda x: x.reshape(2, 2, 2, 3, 2),
    ),
    "reshape, merge": (
        lambda x: views.reshape(x, (8, 6)),
        lambda x: x.reshape(8, 6),
    ),
    "reshape, all": (lambda x: views.reshape(x, (48,)), lambda x: x.reshape(48)),
    "reshape, across": (
        lambda x: views.reshape(x, (3, 16)),
        lambda x: x.reshape(3, 16),
    ),
    "reshape, ones": (
        lambda x: views.reshape(x, (1, 2, 4, 1, 6, 1)),
        lambda x: x.reshape(1, 2, 4, 1, 6, 1),
    ),
    "broadcast": (
        lambda x: views.broadcast_in_dim(x, (2, 5, 4, 6), (0, 2, 3)),
        lambda x: jnp.broadcast_to(x[:, None], (2, 5, 4, 6)),
    ),
    "slice": (
        lambda x: views.slice_(x, (1, 0, 1), (2, 3, 6), (1, 2, 2)),
        lambda x: x[1:2, 0:3:2, 1:6:2],
    ),
    "slice, empty": (
        lambda x: views.slice_(x, (0, 2, 0), (2, 2, 6), None),
        lambda x: x[:, 2:2],
    ),
    "dynamic slice, clamped": (
        lambda x: views.dynamic_slice(x, [jnp.int32(i) for i in (1, 3, -2)], (1, 2, 5)),
        lambda x: x[1:2, 2:4, 0:5],
    ),
    "squeeze": (
        lambda x: views.squeeze(views.slice_(x, (1, 0, 0), (2, 4, 6), None), (0,)),
        lambda x: x[1],
    ),
    "rev": (lambda x: views.rev(x, (0, 2)), lambda x: x[::-1, :, ::-1]),
    "tile": (
        lambda x: views.tile(x, (3, 1, 2)),
        lambda x: jnp.tile(x, (3, 1, 2)),
    ),
    "stack": (
        lambda x: joins.stack([x, views.rev(x, (1,))], 2),
        lambda x: jnp.stack([x, x[:, ::-1]], 2),
    ),
    "multiply": (
        lambda x: views.scaled(x, jnp.multiply, jnp.float32(3)),
        lambda x: x * 3,
    ),
    "divide": (
        lambda x: views.scaled(x, jnp.divide, jnp.float32(3)),
        lambda x: x / 3,
    ),
    "concatenate": (
        lambda x: joins.concatenate([x, views.rev(x, (1,)), x], 1),
        lambda x: jnp.concatenate([x, x[:, ::-1], x], 1),
    ),
    "concatenate along what factors share": (
        lambda x: joins.concatenate([x, x], 0),
        lambda x: jnp.concatenate([x, x], 0),
    ),
}


@pytest.mark.parametrize("leaf", LEAVES.values(), ids=LEAVES.keys())
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_a_view_stands_for_the_view_of_the_array(leaf, view):
    ours, theirs = view
    out = jax.eval_shape(ours, leaf)
    assert out.shape == jax.eval_shape(theirs, leaf.weight).shape
    written, expected = jax.jit(
        lambda leaf: (ours(leaf).materialise(), theirs(leaf.materialise()))
    )(leaf)
    np.testing.assert_allclose(written, expected, rtol=1e-5, atol=1e-6)


def test_factors_keep_size_one_where_they_do_not_vary():
    split = views.reshape(SHARED, (2, 2, 2, 3, 2))
    assert [f.shape for f in split.factors] == [(1, 2, 2, 1, 1, 3), (1, 1, 1, 3, 2, 3)]


def test_parts_of_different_rank_are_joined_by_adding_their_ranks():
    one = Perturbed.matrix(normal(4, 6), normal(4, 1), normal(6, 1), 0.3)
    two = Perturbed.matrix(normal(4, 6), normal(4, 2), normal(6, 2), 0.1)
    joined = joins.concatenate([one, two], 0)
    assert joined is not None
    assert joined.rank == 3
    expected = jnp.concatenate([one.materialise(), two.materialise()])
    np.testing.assert_allclose(joined.materialise(), expected, rtol=1e-5, atol=1e-6)


def test_a_lookup_leaves_factors_that_do_not_vary_alone():
    leaf = Perturbed.matrix(normal(9, 4), normal(9, 1), normal(4, 1))
    numbers = lax.GatherDimensionNumbers((1,), (0,), (0,))
    how = {"dimension_numbers": numbers, "slice_sizes": (1, 4), "mode": "clip"}
    rows = views.gather(leaf, jnp.array([[3], [8], [3]]), how)
    assert [f.shape for f in rows.factors] == [(3, 1, 1), (1, 4, 1)]
