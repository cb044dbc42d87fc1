import itertools

import numpy as np
import pytest

from tfapprox.decompositions.clustering import balanced_clusters


def _spread(points, clusters):
    heaps = [points[list(members)] for members in clusters]
    return sum(np.sum((heap - heap.mean(axis=0)) ** 2) for heap in heaps)


def test_clusters_are_equally_large_and_cover_every_point_once():
    points = np.random.default_rng(0).normal(size=(24, 3))
    clusters = balanced_clusters(points, 6)
    assert clusters.shape == (6, 4)
    assert sorted(clusters.ravel()) == list(range(24))
    assert (np.diff(clusters, axis=1) > 0).all()


def test_separate_heaps_are_found_whatever_the_order():
    generator = np.random.default_rng(1)
    heaps = generator.permutation(np.repeat(np.arange(4), 5))
    points = 100 * np.eye(4)[heaps] + generator.normal(size=(20, 4))
    assert all(len(set(heaps[members])) == 1 for members in balanced_clusters(points, 4))


@pytest.mark.parametrize("dimension", [2, 12])
def test_halves_are_as_good_as_the_best_of_all_halves(dimension):
    for seed in range(5):
        points = np.random.default_rng(seed).normal(size=(8, dimension))
        best = min(
            _spread(points, (half, tuple(set(range(8)) - set(half))))
            for half in itertools.combinations(range(8), 4)
        )
        assert _spread(points, balanced_clusters(points, 2)) <= best * 1.1


def test_one_cluster_and_equal_points_are_no_trouble():
    assert balanced_clusters(np.zeros((6, 3)), 3).shape == (3, 2)
    np.testing.assert_array_equal(balanced_clusters(np.zeros((6, 3)), 1), [range(6)])
