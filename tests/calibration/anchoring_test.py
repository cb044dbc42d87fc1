import dataclasses

import numpy as np
import pytest

from tests.reference.calibration import reduced_rank_regression
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.calibration.anchoring import AnchoredFits, anchored_regression
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.fitting import factorize
from tfapprox.selection.problem import Configuration

DENSE = Geometry()


def _kernel(rows, columns, seed=0):
    generator = np.random.default_rng([seed, rows])
    return generator.standard_normal((1, 1, rows, columns)).astype(np.float32)


def _inputs(count, size, seed=5):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, size)) @ rng.standard_normal((size, size))).astype("f4")


def _svd(rank):
    choice = Configuration("svd", {"scheme": 0, "slices": 1, "rank": rank})
    return lambda site: factorize(site, choice, SpectrumCache())


def test_with_plenty_of_data_the_regression_is_the_least_squares_one():
    rng = np.random.default_rng(0)
    rows = _inputs(4000, 12) + 3
    targets = rows @ rng.standard_normal((12, 6)) + 0.1 * rng.standard_normal((4000, 6)) - 1
    found, moments = anchored_regression(_kernel(12, 6), rows, targets.astype("f4"))
    centred = rows - rows.mean(axis=0), targets - targets.mean(axis=0)
    best = np.linalg.lstsq(*centred, rcond=None)[0]
    errors = [np.linalg.norm(centred[1] - centred[0] @ b) for b in (best, found.reshape(12, 6))]
    assert errors[1] < 1.01 * errors[0]
    np.testing.assert_allclose(moments.center, rows.mean(axis=0), atol=1e-4)


def test_with_few_data_the_regression_stays_near_the_kernel():
    rng = np.random.default_rng(0)
    kernel, rows = _kernel(60, 6), _inputs(20, 60)
    noise = 5 * rng.standard_normal((20, 6)).astype("f4")
    found, _ = anchored_regression(kernel, rows, rows @ kernel[0, 0] + noise)
    fresh = _inputs(500, 60)[250:]
    gone = np.linalg.norm(fresh @ (found - kernel)[0, 0]) / np.linalg.norm(fresh @ kernel[0, 0])
    fitted = np.linalg.lstsq(rows, rows @ kernel[0, 0] + noise, rcond=None)[0]
    free = np.linalg.norm(fresh @ (fitted - kernel[0, 0])) / np.linalg.norm(fresh @ kernel[0, 0])
    assert gone < 0.5 * free


def _run(fits, layers, x, watch):
    """Runs a network of dense layers with ReLU, each kernel taken from `watch`."""
    for name in layers:
        kernel, offset = watch(name, f"{name}#0", x[:, None, None], DENSE)
        x = np.maximum(x @ kernel[0, 0] + offset, 0)
    return x


def test_each_site_is_the_reduced_rank_regression_on_what_the_others_leave():
    x = _inputs(3000, 10)
    sites = {name: Site(name, "dense", _kernel(10, 10, seed)) for seed, name in enumerate("abc")}
    fits = AnchoredFits(sites, {name: _svd(4) for name in "ab"})
    original = _run(fits, "abc", x, fits.record)
    fits.turn()
    _run(fits, "abc", x, fits.replay)
    assert list(fits.fitted) == ["a", "b"]

    seen, true = x.astype("f8"), x.astype("f8")
    for name in "ab":
        target = true @ sites[name].kernel[0, 0]
        centred = seen - seen.mean(axis=0), target - target.mean(axis=0)
        best = reduced_rank_regression(*centred, 4)
        built = fits.fitted[name]
        output = seen @ built.reconstruct()[0, 0] + built.offset
        errors = [
            np.linalg.norm(centred[1] - centred[0] @ best),
            np.linalg.norm(target - output),
        ]
        assert errors[1] < 1.02 * errors[0]
        # The mean comes out right, which is what the offset is for.
        gap = np.linalg.norm(output.mean(axis=0) - target.mean(axis=0))
        assert gap < 1e-3 * np.linalg.norm(target.std(axis=0))
        seen, true = np.maximum(output, 0), np.maximum(target, 0)

    blind = {
        name: dataclasses.replace(site, kernel=_svd(4)(site).reconstruct())
        for name, site in sites.items()
        if name != "c"
    } | {"c": sites["c"]}

    def plain(name, use, x, geometry):
        return blind[name].kernel, np.zeros(10)

    anchored = _run(fits, "abc", x, fits.replay)
    errors = [np.linalg.norm(y - original) for y in (_run(fits, "abc", x, plain), anchored)]
    assert errors[1] < 0.8 * errors[0]


def test_a_site_that_runs_several_times_is_fitted_to_all_its_inputs():
    site = Site("loop", "dense", _kernel(8, 8))
    fits = AnchoredFits({"loop": site}, {"loop": _svd(3)})
    inputs = [_inputs(200, 8, seed) for seed in range(3)]
    for watch in (fits.record, fits.replay):
        if watch == fits.replay:
            fits.turn()
        for x in inputs:
            assert not fits.fitted
            watch("loop", "loop#0", x[:, None, None], DENSE)
    rows = np.concatenate(inputs).astype("f8")
    target = rows @ site.kernel[0, 0]
    best = reduced_rank_regression(rows - rows.mean(axis=0), target - target.mean(axis=0), 3)
    built = fits.fitted["loop"]
    lost = target - rows @ built.reconstruct()[0, 0] - built.offset
    least = (target - target.mean(axis=0)) - (rows - rows.mean(axis=0)) @ best
    assert np.linalg.norm(lost) == pytest.approx(np.linalg.norm(least), rel=0.02)


def test_without_a_bias_there_is_no_offset():
    site = Site("only", "dense", _kernel(8, 8))
    fits = AnchoredFits({"only": site}, {"only": _svd(3)}, unbiased=["only"])
    x = _inputs(300, 8)[:, None, None] + 4
    fits.record("only", "only#0", x, DENSE)
    fits.turn()
    _, offset = fits.replay("only", "only#0", x, DENSE)
    assert fits.fitted["only"].offset is None and not offset.any()
