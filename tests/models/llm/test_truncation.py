import numpy as np
import pytest

from models.llm.truncation import truncated


RANDOM = np.random.default_rng(0)
STACK = RANDOM.normal(size=(3, 5, 8)).astype(np.float32)


def product(found):
    return found.left @ np.swapaxes(found.right, -1, -2)


def low(shape, rank):
    *layers, rows, cols = shape
    left, right = (RANDOM.normal(size=(*layers, n, rank)) for n in (rows, cols))
    return (left @ np.swapaxes(right, -1, -2)).astype(np.float32)


@pytest.mark.parametrize("shape", [(3, 5, 8), (8, 5)])
@pytest.mark.parametrize("rank", [2, 3, 9])
def test_a_matrix_of_no_higher_rank_is_given_back(shape, rank):
    matrix = low(shape, 2)
    found = truncated(matrix, rank)
    np.testing.assert_allclose(product(found), matrix, atol=2e-6)
    assert found.kept == pytest.approx(found.total, rel=1e-12)
    assert found.left.shape[-1] == found.right.shape[-1] == min(rank, 5)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_it_is_the_nearest_of_its_rank_in_each_layer(rank):
    found = truncated(STACK, rank)
    u, s, v = np.linalg.svd(STACK, full_matrices=False)
    nearest = (u[..., :rank] * s[:, None, :rank]) @ v[:, :rank]
    np.testing.assert_allclose(product(found), nearest, atol=1e-5)
    assert found.kept == pytest.approx((s[:, :rank] ** 2).sum(), rel=1e-5)
    assert found.total == pytest.approx((STACK.astype(float) ** 2).sum())


def test_what_is_left_out_is_what_is_not_kept():
    found = truncated(STACK, 2)
    rest = np.sum((STACK - product(found)).astype(float) ** 2)
    assert rest == pytest.approx(found.total - found.kept, rel=1e-5)


def test_the_factors_are_of_one_size():
    found = truncated(1e-6 * STACK, 2)
    left, right = (np.linalg.norm(x, axis=-2) for x in found[:2])
    np.testing.assert_allclose(left, right, rtol=1e-5)


def test_nothing_is_made_of_zeros():
    found = truncated(np.zeros((4, 3), np.float32), 2)
    assert (found.kept, found.total) == (0, 0)
    assert not product(found).any()
