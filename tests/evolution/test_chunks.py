"""Rows are worked through some at a time, each once."""

import jax.numpy as jnp
import numpy as np
import pytest

from eggroll.evolution import chunks


@pytest.mark.parametrize("count", [1, 7, 16])
@pytest.mark.parametrize("chunk", [1, 3, 16, 100])
def test_chunks_cover_every_row_once(count, chunk):
    index = chunks.chunk_index(count, chunk)
    assert index.shape[1] <= chunk
    flat = index.ravel()
    np.testing.assert_array_equal(flat[:count], np.arange(count))
    assert np.all(flat[count:] == count - 1)
    assert len(flat) - count < len(index)


@pytest.mark.parametrize("chunk", [2, 4, 6, 10])
def test_chunks_keep_pairs_whole(chunk):
    index = chunks.chunk_index(14, chunk, 2)
    assert index.shape[1] % 2 == 0
    assert index.shape[1] <= chunk
    np.testing.assert_array_equal(index.ravel()[:14], np.arange(14))


@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
def test_sums_and_maps_of_chunks_are_those_of_the_whole(chunk):
    rows = {"x": jnp.arange(10.0)}
    total = chunks.sum_chunks(lambda r, w: jnp.sum(r["x"] * w), rows, chunk)
    mapped = chunks.map_chunks(lambda r: (r["x"] ** 2)[:, None], rows, chunk)
    assert total == 45
    np.testing.assert_array_equal(mapped[:, 0], np.arange(10.0) ** 2)
