"""The benchmark of calibration: the Gram products that are its lower bound."""

from benchmarks.calibrating import gram_sizes
from benchmarks.random_sites import make_sites
from tfapprox.calibration.collecting import ROWS_PER_CALL


def test_a_product_has_the_rows_that_calibration_draws_and_the_kernels_inputs():
    sites = make_sites([((3, 3, 4, 8), 10, 2), ((1, 1, 16, 4), 1, 1), ((3, 3, 4, 8), 64, 1)])
    assert gram_sizes(sites, 6) == [(6 * 25, 36), (6, 16), (ROWS_PER_CALL, 36)]
