import dataclasses

import numpy as np
import pytest

from tests.reference.calibration import reduced_rank_regression
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.calibration.anchoring import AnchoredFits
from tfapprox.calibration.collecting import ROWS_PER_CALL
from tfapprox.calibration.rectifying import Rectifier
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


def _run(fits, layers, x, watch, shift=0.0):
    """Runs a network of dense layers with ReLU, each kernel taken from `watch`."""
    for name in layers:
        kernel, offset = watch(name, f"{name}#0", x[:, None, None], DENSE)
        x = np.maximum(x @ kernel[0, 0] + offset + shift, 0)
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
        told = errors[1] / np.linalg.norm(centred[1])
        assert fits.errors[name] == pytest.approx(told, rel=1e-3)
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


def test_of_many_rows_the_same_ones_are_drawn_in_both_runs():
    site = Site("only", "dense", _kernel(8, 8))
    fits = AnchoredFits({"only": site}, {"only": _svd(8)})
    x = _inputs(ROWS_PER_CALL + 1000, 8)[:, None, None]
    fits.record("only", "only#0", x, DENSE)
    fits.turn()
    fits.replay("only", "only#0", x, DENSE)
    assert fits.errors["only"] < 1e-3


def test_calls_that_share_a_kernel_count_alike_however_large_their_outputs():
    site = Site("shared", "dense", np.eye(8, dtype=np.float32)[None, None])
    fits = AnchoredFits({"shared": site}, {"shared": _svd(2)})
    noise = np.random.default_rng(0).standard_normal((2, 400, 4)).astype("f4") * [1, 0.1, 0.1, 0.1]
    calls = [np.zeros((400, 8), np.float32) for _ in noise]
    calls[0][:, :4], calls[1][:, 4:] = 0.01 * noise[0], noise[1]
    for watch in (fits.record, fits.replay):
        if watch == fits.replay:
            fits.turn()
        for x in calls:
            watch("shared", "shared#0", x[:, None, None], DENSE)
    built = fits.fitted["shared"]
    for x in calls:
        lost = x @ built.reconstruct()[0, 0] - x
        assert np.linalg.norm(lost) < 0.3 * np.linalg.norm(x)


def test_without_a_bias_there_is_no_offset():
    site = Site("only", "dense", _kernel(8, 8))
    fits = AnchoredFits({"only": site}, {"only": _svd(3)}, unbiased=["only"])
    x = _inputs(300, 8)[:, None, None] + 4
    fits.record("only", "only#0", x, DENSE)
    fits.turn()
    _, offset = fits.replay("only", "only#0", x, DENSE)
    assert fits.fitted["only"].offset is None and not offset.any()


def test_with_rectifiers_the_run_ends_nearer_to_the_original():
    x = _inputs(3000, 10)
    sites = {name: Site(name, "dense", _kernel(10, 10, seed)) for seed, name in enumerate("ab")}
    ends, shift = [], -8.0
    rectifier = Rectifier(np.ones(10), np.full(10, shift))
    for rectifiers in ({}, dict.fromkeys("ab", rectifier)):
        fits = AnchoredFits(sites, {name: _svd(5) for name in "ab"}, rectifiers=rectifiers)
        original = _run(fits, "ab", x, fits.record, shift)
        fits.turn()
        end = _run(fits, "ab", x, fits.replay, shift)
        ends.append(np.linalg.norm(end - original) / np.linalg.norm(original))
    assert ends[1] < 0.95 * ends[0]
    spread = np.linalg.norm(original - original.mean(axis=0)) / np.linalg.norm(original)
    assert fits.errors["b"] == pytest.approx(ends[1] / spread, rel=1e-3)
