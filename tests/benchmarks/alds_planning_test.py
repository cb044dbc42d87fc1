"""The benchmark of planning ALDS: every divisor, every SVD, and cores given back."""

import os

import numpy as np
import pytest

from benchmarks.alds_planning import alds_rows, all_divisors, bare_svd_seconds, cores
from benchmarks.random_sites import make_sites, resnet50_layers
from tfapprox.decompositions.options import CandidateOptions

SITES = make_sites([((3, 3, 8, 8), 6, 1), ((3, 3, 8, 8), 6, 1), ((1, 1, 12, 4), 6, 1)])


def test_slices_are_all_numbers_that_divide_some_sites_channels():
    assert all_divisors(SITES) == (1, 2, 3, 4, 6, 8, 12)


def test_every_slice_of_every_unfolding_is_decomposed_once_for_each_shape(monkeypatch):
    seen = []
    svd = "benchmarks.alds_planning.scipy.linalg.svd"
    monkeypatch.setattr(svd, lambda matrix, full_matrices: seen.append(matrix.shape))
    bare_svd_seconds(SITES, CandidateOptions(slices=all_divisors(SITES)))
    # 3x3: four schemes of 1 + 2 + 4 + 8 slices; 1x1: one of 1 + 2 + 3 + 4 + 6 + 12.
    assert len(seen) == 4 * 15 + 28


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux tells cores")
def test_cores_are_given_back():
    before = os.sched_getaffinity(0)
    with pytest.raises(RuntimeError), cores(1):
        assert len(os.sched_getaffinity(0)) == 1
        raise RuntimeError
    assert os.sched_getaffinity(0) == before


def test_a_row_tells_workers_and_what_the_svds_took():
    (row,) = alds_rows("tiny", SITES, (1,))
    assert row.case["workers"] == 1 and row.values["candidates"] > 50
    assert row.values["planning over SVDs"] > 0


def test_resnet50_has_its_54_linear_layers_and_25_million_parameters():
    shapes = [shape for shape, _, _ in resnet50_layers()]
    assert len(shapes) == 54
    assert sum(int(np.prod(s)) for s in shapes) == 25_502_912
