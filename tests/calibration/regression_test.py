import numpy as np
import pytest

from tfapprox.accounting.site import Site
from tfapprox.calibration.regression import _RIDGES, Regression
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


def test_the_ridge_is_nearly_the_best_one_for_rows_that_were_not_seen():
    rng = np.random.default_rng(0)
    kernel, rows = _kernel(60, 6), _inputs(400, 60)
    seen, fresh = rows[:90], rows[90:]
    noise = 20 * rng.standard_normal((90, 6)).astype("f4")
    truth = fresh @ kernel[0, 0]

    def lost(found):
        return float(np.linalg.norm((fresh - fresh.mean(axis=0)) @ (found - kernel[0, 0])))

    centred, wrong = seen - seen.mean(axis=0), noise - noise.mean(axis=0)
    inner = centred.T @ centred / 90
    errors = [
        lost(kernel[0, 0] + np.linalg.solve(
            inner + ridge * np.trace(inner) / 60 * np.eye(60), centred.T @ wrong / 90
        ))
        for ridge in _RIDGES
    ]  # fmt: skip
    found = Regression(kernel, seen).solve(kernel, seen @ kernel[0, 0] + noise)
    assert lost(found[0, 0]) < 1.1 * min(errors) < 0.2 * errors[0]
    assert lost(found[0, 0]) < 0.1 * np.linalg.norm(truth)


def test_targets_that_the_kernel_gives_by_itself_do_not_choose_the_ridge():
    kernel, rows = _kernel(60, 6), _inputs(90, 60)
    noise = 20 * np.random.default_rng(0).standard_normal((90, 6)).astype("f4")
    twice, once = Regression(kernel, rows), Regression(kernel, rows)
    np.testing.assert_array_equal(twice.solve(kernel, rows @ kernel[0, 0]), kernel)
    targets = rows @ kernel[0, 0] + noise
    np.testing.assert_array_equal(twice.solve(kernel, targets), once.solve(kernel, targets))


def test_rows_count_by_their_weight():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((4000, 8)).astype("f4") + 2
    weights = np.where(np.arange(4000) % 2, 1.0, 0.02)
    maps = rng.standard_normal((2, 8, 5))
    targets = np.where(weights[:, None] == 1, rows @ maps[0] + 7, rows @ maps[1]).astype("f4")
    center = weights @ rows / weights.sum(), weights @ targets / weights.sum()
    root = np.sqrt(weights)[:, None]
    best = np.linalg.lstsq(root * (rows - center[0]), root * (targets - center[1]), rcond=None)[0]
    site = Site("only", "dense", _kernel(8, 5))
    choice = Configuration("svd", {"scheme": 0, "slices": 1, "rank": 5})
    regression = Regression(site.kernel, rows, weights=weights)
    built, _ = regression.fit(site, targets, lambda one: factorize(one, choice, SpectrumCache()))
    np.testing.assert_allclose(built.reconstruct()[0, 0], best, atol=0.01 * np.abs(best).max())
    np.testing.assert_allclose(
        center[0] @ built.reconstruct()[0, 0] + built.offset, center[1], rtol=1e-3, atol=1e-2
    )
    np.testing.assert_allclose(regression.moments.center, center[0], rtol=1e-5)


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
