"""The perturbed array is the array it stands for, in every product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eggroll import Perturbed, Shift, perturbed


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(shape).normal(size=shape), jnp.float32)


LEAF = Perturbed.matrix(normal(4, 3), normal(4, 2), normal(3, 2), 0.1)
WRITTEN = LEAF.weight + 0.1 * normal(4, 2) @ normal(3, 2).T

PRODUCTS = {
    "vector @": lambda w: normal(4) @ w,
    "rows @": lambda w: normal(5, 4) @ w,
    "batch of rows @": lambda w: normal(2, 5, 4) @ w,
    "@ vector": lambda w: w @ normal(3),
    "@ columns": lambda w: w @ normal(3, 5),
    "@ batch of columns": lambda w: w @ normal(2, 3, 5),
    "transposed": lambda w: normal(5, 3) @ w.T,
    "row": lambda w: w[2],
    "rows by number": lambda w: w[jnp.array([[0, 3], [1, 1]])],
    "NumPy rows @": lambda w: np.ones((5, 4), np.float32) @ w,
}


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS.keys())
def test_operators_agree_with_the_written_out_matrix(product):
    np.testing.assert_allclose(product(LEAF), product(WRITTEN), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS.keys())
def test_operators_agree_with_the_transformation(product):
    transformed = perturbed(product)(LEAF)
    np.testing.assert_allclose(product(LEAF), transformed, rtol=1e-5, atol=1e-6)


def test_materialise_writes_the_array_out():
    np.testing.assert_allclose(LEAF.materialise(), WRITTEN, rtol=1e-6)


def test_a_row_of_a_table_of_one_row():
    leaf = Perturbed.matrix(normal(1, 3), normal(1, 2), normal(3, 2), 0.1)
    first = leaf[jnp.array(0)]
    np.testing.assert_allclose(first, leaf.materialise()[0], rtol=1e-6)


def test_layers_are_independent_matrices():
    left, right = normal(2, 4, 1), normal(2, 3, 1)
    stack = Perturbed.matrix(normal(2, 4, 3), left, right, 0.1)
    expected = stack.weight + 0.1 * jnp.einsum("lir,ljr->lij", left, right)
    np.testing.assert_allclose(stack.materialise(), expected, rtol=1e-6)


@pytest.mark.parametrize("product", [lambda w: w @ normal(4), lambda w: normal(4) @ w])
def test_operators_of_a_stack_are_refused(product):
    stack = Perturbed.matrix(normal(2, 4, 3), normal(2, 4, 1), normal(2, 3, 1))
    with pytest.raises(ValueError, match=r"expected a perturbed matrix.*\(2, 4, 3\)"):
        product(stack)


def test_it_passes_through_jit_and_vmap_as_a_pytree():
    batch = lambda x: jnp.broadcast_to(x, (5, *x.shape))
    leaves = jax.tree.map(lambda x: batch(jnp.asarray(x)), LEAF)
    out = jax.jit(jax.vmap(lambda leaf: normal(4) @ leaf))(leaves)
    np.testing.assert_allclose(out, batch(normal(4) @ WRITTEN), rtol=1e-5, atol=1e-6)


def test_bfloat16_products_are_summed_in_float32():
    ones = jnp.ones((1000, 1), jnp.bfloat16)
    leaf = Perturbed.matrix(ones, jnp.zeros((1000, 1)), jnp.zeros((1, 1)))
    assert (ones[:, 0] @ leaf)[0] == 1000  # bfloat16 alone would stop at 256


def test_shift_rounds_to_nearest_the_same_way_on_both_sides():
    shift = Shift(jnp.int32(1), bits=2)
    values = jnp.arange(-8, 9)
    expected = np.sign(values) * ((np.abs(values) + 2) // 4)  # halves go outwards
    np.testing.assert_array_equal(shift.wide(values), expected)


def test_shift_by_floor_drops_the_remainder():
    shift = Shift(jnp.int32(1), bits=2, floor=True)
    values = jnp.arange(-8, 9)
    np.testing.assert_array_equal(shift.wide(values), np.floor(values / 4))


def test_negative_bits_multiply():
    assert Shift(jnp.int32(1), bits=-3).wide(jnp.int32(-5)) == -40


def test_the_members_of_an_integer_pair_mirror_each_other():
    weight = jnp.arange(-6, 6, dtype=jnp.int8).reshape(4, 3)
    left, right = (jnp.arange(n, dtype=jnp.int8)[:, None] - 1 for n in (4, 3))
    member = lambda sign: (
        Perturbed.matrix(weight, left, right, Shift(jnp.int32(sign), 1, gain=3))
        .materialise()
        .astype(jnp.int32)
    )
    np.testing.assert_array_equal(member(1) + member(-1), 2 * weight.astype(jnp.int32))


def test_integers_saturate_at_a_symmetric_range():
    weight = jnp.array([[120, -120]], jnp.int8)
    big = jnp.array([[20], [-20]], jnp.int8)
    leaf = Perturbed.matrix(weight, jnp.ones((1, 1)), big, Shift(jnp.int32(1), 0))
    np.testing.assert_array_equal(leaf.materialise(), [[127, -127]])
