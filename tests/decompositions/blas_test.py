"""Sites are worked on side by side where they are small, and with all threads where not."""

import dataclasses
import threading

import numpy as np
import pytest

from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.calibration.moments import Moments
from tfapprox.calibration.weights import CovarianceWeight
from tfapprox.decompositions import blas


def _site(shape, name="site"):
    kernel = np.broadcast_to(np.float32(1), shape)
    return Site(name, "conv2d", kernel, (Geometry((1, 1), (1, 1), "SAME", (7, 7)),))


def test_results_come_in_the_order_of_the_sites_and_progress_in_this_thread():
    sites = [_site((1, 1, 4096, 4096), "large"), _site((1, 1, 4, 4), "small")]
    told = []
    here = threading.current_thread()
    done = blas.for_each_site(
        sites, lambda site: site.name, lambda n: told.append((n, threading.current_thread()))
    )
    assert done == ["large", "small"]
    assert told == [(0, here), (1, here), (2, here)]


def test_small_sites_are_worked_on_side_by_side(monkeypatch):
    monkeypatch.setattr(blas, "workers", lambda: 2)
    both = threading.Barrier(2, timeout=600)
    blas.for_each_site([_site((3, 3, 8, 8), n) for n in "ab"], lambda site: both.wait())


@pytest.mark.parametrize(
    "shape, large",
    [
        ((3, 3, 512, 512), False),  # the largest unfolding is 1536 x 1536
        ((3, 3, 1024, 1024), True),
        ((1, 1, 2048, 1000), False),
        ((1, 1, 2048, 2048), True),
        ((7, 7, 3, 64), False),
    ],
)
def test_a_site_is_large_by_the_shorter_side_of_its_unfoldings(shape, large):
    assert blas._is_large(_site(shape)) == large


def test_with_calibration_data_all_taps_of_a_kernel_enter_one_problem():
    site = _site((3, 3, 512, 512))
    weight = CovarianceWeight(Moments(np.zeros(1), np.zeros((1, 1), np.float32), None, 1))
    assert blas._is_large(dataclasses.replace(site, weight=weight))


def test_what_one_site_raises_ends_the_rest():
    def fail(site):
        raise RuntimeError(site.name)

    with pytest.raises(RuntimeError, match="only"):
        blas.for_each_site([_site((1, 1, 4, 4), "only")], fail)
