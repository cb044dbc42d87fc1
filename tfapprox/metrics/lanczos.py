"""The largest eigenvalue of a positive semidefinite matrix, with a good first guess."""

import numpy as np
from scipy.linalg import eigh_tridiagonal

_DENSE_SIZE = 64  # up to here LAPACK takes no longer
_CHECK_EVERY = 8
_TOLERANCE = 1e-5  # of the residual; the eigenvalue's error goes with its square


def largest_eigenvalue(
    matrix: np.ndarray, guess: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Returns the largest eigenvalue and its eigenvector, by the Lanczos method.

    All Lanczos vectors are kept and orthogonalised again, so that no spurious copies
    arise. It stops at a residual ||A x - theta x|| of 1e-5 theta.

    Args:
      matrix: [n, n], symmetric positive semidefinite.
      guess: [n], e.g. the eigenvector of a similar matrix. Noise is mixed in: a guess
        that is another eigenvector would otherwise be taken for the answer.
    """
    size = len(matrix)
    if size <= _DENSE_SIZE:
        values, vectors = np.linalg.eigh(matrix)
        return float(max(values[-1], 0.0)), vectors[:, -1]
    start = np.random.default_rng(0).standard_normal(size).astype(matrix.dtype)
    if guess is not None:
        start = guess + start * (0.1 * np.linalg.norm(guess) / np.linalg.norm(start))
    return _lanczos(matrix, start / np.linalg.norm(start))


def _lanczos(matrix: np.ndarray, vector: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns the top Ritz pair once it has converged, or when the space is exhausted."""
    size = len(matrix)
    basis = np.empty((min(size, 64), size), matrix.dtype)
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for step in range(size):
        if step == len(basis):
            basis = np.concatenate([basis, np.empty_like(basis)])
        basis[step] = vector
        known = basis[: step + 1]
        product = matrix @ vector
        diagonal.append(float(vector @ product))
        for _ in range(2):
            product -= (known @ product) @ known
        length = float(np.linalg.norm(product))
        exhausted = length <= np.finfo(matrix.dtype).eps * max(diagonal) or step == size - 1
        if exhausted or step % _CHECK_EVERY == _CHECK_EVERY - 1:
            value, weights = _top_pair(diagonal, off_diagonal)
            if exhausted or length * abs(weights[-1]) <= _TOLERANCE * value:
                break
        off_diagonal.append(length)
        vector = product / length
    return max(value, 0.0), weights.astype(matrix.dtype) @ known


def _top_pair(diagonal: list[float], off_diagonal: list[float]) -> tuple[float, np.ndarray]:
    """Returns the largest eigenvalue of a tridiagonal matrix, and its eigenvector."""
    last = len(diagonal) - 1
    values, vectors = eigh_tridiagonal(
        np.array(diagonal), np.array(off_diagonal), select="i", select_range=(last, last)
    )
    return float(values[0]), vectors[:, 0]
