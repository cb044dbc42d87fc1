import numpy as np
import pytest

from tests.reference.calibration import reduced_rank_regression
from tfapprox.accounting.site import Site
from tfapprox.calibration.rectifying import Rectifier, auxiliary, fit_rectified
from tfapprox.calibration.regression import Regression
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.fitting import factorize
from tfapprox.selection.problem import Configuration


def _svd(rank):
    choice = Configuration("svd", {"scheme": 0, "slices": 1, "rank": rank})
    return lambda site: factorize(site, choice, SpectrumCache())


def _problem(count=3000, inputs=16, outputs=12, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, inputs)) @ rng.standard_normal((inputs, inputs)) / 4
    kernel = rng.standard_normal((1, 1, inputs, outputs)) / 4
    site = Site("only", "dense", kernel.astype("f4"))
    rows = rows.astype("f4")
    return site, rows, rows @ site.kernel[0, 0]


def _fits(site, rows, targets, rectifier, rank, centred=True):
    regression = Regression(site.kernel, rows, centred)
    linear = regression.fit(site, targets, _svd(rank))
    return linear, fit_rectified(site, regression, targets, _svd(rank), rectifier, linear)


@pytest.mark.parametrize("top", [np.inf, 1.5])
@pytest.mark.parametrize("weight", [0.03, 0.3, 1.0])
def test_the_auxiliary_variable_is_the_best_on_a_fine_grid(weight, top):
    rng = np.random.default_rng(0)
    responses = np.clip(rng.uniform(-1, 2, (40, 1)), 0, top)
    predicted = rng.uniform(-2, 3, (40, 1))

    def loss(z):
        return (responses - np.clip(z, 0, top)) ** 2 + weight * (z - predicted) ** 2

    grid = loss(np.linspace(-4, 4, 8001)[None]).min(axis=1)
    np.testing.assert_allclose(loss(auxiliary(responses, predicted, weight, top))[:, 0], grid,
                               atol=2e-6)  # fmt: skip


@pytest.mark.parametrize("top", [np.inf, 2.0])
def test_responses_come_nearer_than_by_fitting_outputs(top):
    site, rows, targets = _problem()
    rng = np.random.default_rng(1)
    scale, shift = rng.uniform(0.3, 2, 12), rng.normal(-0.5, 0.5, 12)
    scale[3], scale[4] = -0.7, 0.0  # normalizations may turn a channel around, or silence it
    rectifier = Rectifier(scale, shift, top)
    linear, (built, outputs) = _fits(site, rows, targets, rectifier, 5)
    np.testing.assert_allclose(
        rows @ built.reconstruct()[0, 0] + built.offset, outputs, atol=1e-3, rtol=1e-3
    )
    wanted = rectifier.respond(targets)
    lost = [np.linalg.norm(rectifier.respond(y) - wanted) for y in (linear[1], outputs)]
    centred = rows - rows.mean(axis=0), targets - targets.mean(axis=0)
    best = centred[0] @ reduced_rank_regression(*centred, 5) + targets.mean(axis=0)
    assert lost[0] == pytest.approx(np.linalg.norm(rectifier.respond(best) - wanted), rel=0.02)
    assert lost[1] < 0.8 * lost[0]


def test_where_nothing_is_cut_off_the_fit_of_the_outputs_stays():
    site, rows, targets = _problem()
    rectifier = Rectifier(np.ones(12), np.full(12, 100.0))
    linear, (built, _) = _fits(site, rows, targets, rectifier, 5)
    np.testing.assert_allclose(built.reconstruct(), linear[0].reconstruct(), rtol=0.05, atol=0.01)


def test_without_a_place_for_an_offset_there_is_none():
    site, rows, targets = _problem()
    rectifier = Rectifier(np.ones(12), np.full(12, -float(targets.std())))
    linear, (built, outputs) = _fits(site, rows, targets, rectifier, 5, centred=False)
    assert built.offset is None
    wanted = rectifier.respond(targets)
    lost = [np.linalg.norm(rectifier.respond(y) - wanted) for y in (linear[1], outputs)]
    assert lost[1] < 0.98 * lost[0]


def test_a_response_ends_at_zero_and_at_the_top():
    rectifier = Rectifier(np.array([1.0, -2.0]), np.array([0.5, 1.0]), 2.0)
    outputs = np.array([[-1.0, 0.25], [1.0, 1.0], [9.0, -9.0]], np.float32)
    np.testing.assert_allclose(rectifier.respond(outputs), [[0, 0.5], [1.5, 0], [2, 2]])


@pytest.mark.parametrize("good", [0, 3])
def test_the_best_of_all_fits_is_kept_the_linear_one_among_them(good):
    site, rows, targets = _problem()
    rectifier = Rectifier(np.ones(12), np.full(12, -0.5))
    regression = Regression(site.kernel, rows)
    built = []

    def fit(one):
        built.append(_svd(8 if len(built) == good else 1)(one))
        return built[-1]

    linear = regression.fit(site, targets, fit)
    kept, outputs = fit_rectified(site, regression, targets, fit, rectifier, linear)
    assert len(built) > 10 and len(kept.stages) == 2
    assert kept.stages[0].kernel.shape[-1] == 8
    wanted = rectifier.respond(targets)
    lost = np.linalg.norm(rectifier.respond(outputs) - wanted) / np.linalg.norm(wanted)
    assert lost < 0.5


def test_with_few_rows_the_fit_stays_near_the_kernel_whatever_the_scale():
    site, rows, targets = _problem(count=324, inputs=40)
    rectifier = Rectifier(np.geomspace(0.1, 10, 12), np.zeros(12))
    linear, (built, _) = _fits(site, rows[:24], targets[:24], rectifier, 8)
    lost = []
    for one in (linear[0], built):
        fresh = rows[24:] @ one.reconstruct()[0, 0] + one.offset
        lost.append(np.linalg.norm(fresh - targets[24:], axis=0))
    assert np.median(lost[1] / lost[0]) < 0.5
