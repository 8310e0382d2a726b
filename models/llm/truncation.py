"""The product of thin factors that is nearest to a matrix."""

from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float


class Truncated(NamedTuple):
    """Thin factors of a matrix, or of a stack of them, and what they leave out.

    Attributes:
        left: of which left @ rightᵀ is the matrix, as nearly as its rank allows.
        right: beside it; both have columns of the same norms.
        kept: the squared norm of the product.
        total: that of the matrix.
    """

    left: Float[np.ndarray, "*layers rows rank"]
    right: Float[np.ndarray, "*layers cols rank"]
    kept: float
    total: float


def truncated(matrix: Float[np.ndarray, "*layers rows cols"], rank: int) -> Truncated:
    """Returns the nearest product of a rank, in the sum of squares, layer by layer.

    The matrix is projected onto the leading eigenvectors of its smaller Gram matrix, in
    float64: of singular values, those below 1e-8 of the largest are lost. (A full
    decomposition of a matrix of thousands takes minutes.)

    References:
        Eckart and Young, "The approximation of one matrix by another of lower rank",
        Psychometrika 1, 1936.
    """
    *layers, rows, cols = matrix.shape
    parts = [_one(x, rank) for x in matrix.reshape(-1, rows, cols)]
    lefts, rights, kept, total = zip(*parts, strict=True)
    rank = lefts[0].shape[-1]
    return Truncated(
        np.stack(lefts).reshape(*layers, rows, rank),
        np.stack(rights).reshape(*layers, cols, rank),
        sum(kept),
        sum(total),
    )


def _one(matrix: Float[np.ndarray, "rows cols"], rank: int) -> Truncated:
    wide = np.asarray(matrix, np.float64)
    if wide.shape[0] > wide.shape[1]:
        other = _one(wide.T, rank)
        return other._replace(left=other.right, right=other.left)
    size = wide.shape[0]
    leading = (max(size - rank, 0), size - 1)
    _, left = scipy.linalg.eigh(wide @ wide.T, subset_by_index=leading)
    right = wide.T @ left
    square = np.sum(right**2, axis=0)
    root = np.where(square > 0, square**0.25, 1)
    left, right = (np.asarray(x, np.float32) for x in (left * root, right / root))
    return Truncated(left, right, float(square.sum()), float((wide**2).sum()))
