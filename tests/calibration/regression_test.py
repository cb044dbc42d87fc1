import numpy as np
import pytest

from tfapprox.accounting.site import Site
from tfapprox.calibration.regression import Regression
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.fitting import factorize
from tfapprox.selection.problem import Configuration


def _kernel(rows, columns, seed=0):
    generator = np.random.default_rng([seed, rows])
    return generator.standard_normal((1, 1, rows, columns)).astype(np.float32)


def _inputs(count, size, seed=5):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, size)) @ rng.standard_normal((size, size))).astype("f4")


def test_with_plenty_of_data_the_regression_is_the_least_squares_one():
    rng = np.random.default_rng(0)
    rows = _inputs(4000, 12) + 3
    targets = rows @ rng.standard_normal((12, 6)) + 0.1 * rng.standard_normal((4000, 6)) - 1
    regression = Regression(_kernel(12, 6), rows)
    found = regression.solve(_kernel(12, 6), targets.astype("f4"))
    centred = rows - rows.mean(axis=0), targets - targets.mean(axis=0)
    best = np.linalg.lstsq(*centred, rcond=None)[0]
    errors = [np.linalg.norm(centred[1] - centred[0] @ b) for b in (best, found.reshape(12, 6))]
    assert errors[1] < 1.01 * errors[0]
    np.testing.assert_allclose(regression.moments.center, rows.mean(axis=0), atol=1e-4)


def test_with_few_data_the_regression_stays_near_the_kernel():
    rng = np.random.default_rng(0)
    kernel, rows = _kernel(60, 6), _inputs(20, 60)
    noise = 5 * rng.standard_normal((20, 6)).astype("f4")
    found = Regression(kernel, rows).solve(kernel, rows @ kernel[0, 0] + noise)
    fresh = _inputs(500, 60)[250:]
    gone = np.linalg.norm(fresh @ (found - kernel)[0, 0]) / np.linalg.norm(fresh @ kernel[0, 0])
    fitted = np.linalg.lstsq(rows, rows @ kernel[0, 0] + noise, rcond=None)[0]
    free = np.linalg.norm(fresh @ (fitted - kernel[0, 0])) / np.linalg.norm(fresh @ kernel[0, 0])
    assert gone < 0.5 * free


def test_the_relative_error_counts_rows_by_their_weight_and_leaves_out_means():
    rows, rng = _inputs(50, 4), np.random.default_rng(0)
    targets = rng.standard_normal((50, 3)).astype("f4") + 10
    outputs = targets + rng.standard_normal((50, 3)).astype("f4")
    weights = rng.uniform(0.1, 1, 50)
    regression = Regression(_kernel(4, 3), rows, weights=weights)
    mean = (weights @ targets) / weights.sum()
    lost, whole = (weights @ (x**2).sum(axis=1) for x in (outputs - targets, targets - mean))
    error = regression.relative_error(outputs, targets)
    assert error == pytest.approx(np.sqrt(lost / whole), rel=1e-5)


def test_a_fit_of_full_rank_is_the_regression_with_its_offset():
    site = Site("only", "dense", _kernel(6, 5))
    rows = _inputs(400, 6) + 2
    targets = (rows @ _kernel(6, 5, 1)[0, 0] + 3).astype("f4")
    choice = Configuration("svd", {"scheme": 0, "slices": 1, "rank": 5})
    built, outputs = Regression(site.kernel, rows).fit(
        site, targets, lambda site: factorize(site, choice, SpectrumCache())
    )
    assert np.linalg.norm(outputs - targets) < 0.01 * np.linalg.norm(targets)
    np.testing.assert_allclose(rows @ built.reconstruct()[0, 0] + built.offset, outputs, atol=1e-3)
