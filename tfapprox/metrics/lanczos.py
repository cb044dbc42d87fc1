"""The largest eigenvalue of a positive semidefinite matrix, with a good first guess."""

import numpy as np

_DENSE_SIZE = 64  # up to here LAPACK is as fast


def largest_eigenvalue(
    matrix: np.ndarray, guess: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Returns the largest eigenvalue and its eigenvector."""
    values, vectors = np.linalg.eigh(matrix)
    return float(max(values[-1], 0.0)), vectors[:, -1]
