"""Clusters of equal size, so that each can be one group of a convolution."""

import numpy as np
from scipy import optimize

_RESTARTS = 5
_SWEEPS = 20


def balanced_clusters(points: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Returns the members of each cluster, int [count, n / count], rising in each.

    k-means whose assignment step keeps all clusters equally large: it minimises
    sum_p ||x_p - c_{k(p)}||^2 over balanced assignments exactly, as an assignment
    problem with every centre repeated n / count times. The best of five starts.

    Args:
      points: [n, dimension].
      count: divides n.
      seed: of the starting centres, which are drawn as in k-means++.

    References:
      Denton et al. 2014, supplement (equal clusters; there over-full clusters give away
      their members one by one). Malinen and Fraenti: Balanced K-Means for Clustering,
      2014 (the assignment problem).
    """
    generator = np.random.default_rng(seed)
    points = np.asarray(points, np.float64)
    if points.shape[1] > len(points):
        points = np.linalg.qr(points.T)[1].T  # same distances in fewer dimensions
    runs = [_one_run(points, count, generator) for _ in range(_RESTARTS if count > 1 else 1)]
    labels = min(runs, key=lambda run: run[0])[1]
    return np.argsort(labels, kind="stable").reshape(count, -1)


def _one_run(
    points: np.ndarray, count: int, generator: np.random.Generator
) -> tuple[float, np.ndarray]:
    """Returns the sum of squared distances to the centres, and the labels."""
    centres = _spread_centres(points, count, generator)
    size = len(points) // count
    before, labels = np.inf, np.zeros(len(points), np.int64)
    for _ in range(_SWEEPS):
        distances = np.repeat(_squared_distances(points, centres), size, axis=1)
        _, places = optimize.linear_sum_assignment(distances)
        labels = places // size
        total = float(distances[np.arange(len(points)), places].sum())
        if total >= before:
            break
        before = total
        centres = np.stack([points[labels == label].mean(axis=0) for label in range(count)])
    return total, labels


def _spread_centres(points: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Returns points drawn one by one, with odds by squared distance to those drawn before."""
    chosen = [int(generator.integers(len(points)))]
    nearest = np.full(len(points), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, _squared_distances(points, points[chosen[-1:]])[:, 0])
        total = nearest.sum()
        odds = nearest / total if total > 0 else None
        chosen.append(int(generator.choice(len(points), p=odds)))
    return points[chosen]


def _squared_distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Returns [points, centres]."""
    squares = np.sum(points**2, axis=1)[:, None] + np.sum(centres**2, axis=1)
    return np.maximum(squares - 2 * points @ centres.T, 0.0)
