import numpy as np
import pytest

from tfapprox import registry
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.calibration.moments import MomentAccumulator
from tfapprox.calibration.weights import CovarianceWeight, weighted_norm
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.refitting import refit
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.decompositions.weighted_svd import weighted_svd
from tfapprox.fitting import factorize, offer_candidates
from tfapprox.selection.problem import Configuration


def _site(*shape):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal(shape).astype(np.float32)
    size = kernel[..., 0].size
    accumulator = MomentAccumulator(kernel, True)
    accumulator.add(rng.standard_normal((600, size)) @ rng.standard_normal((size, size)) + 1)
    weight = CovarianceWeight(accumulator.finish(shrinkage=0.0))
    geometry = Geometry(padding="SAME", input_size=(8, 8))
    return Site("layer", "conv2d", kernel, (geometry,), weight=weight)


@pytest.mark.parametrize("name", sorted(registry.DECOMPOSITIONS))
@pytest.mark.parametrize("shape", [(3, 3, 8, 12), (1, 1, 16, 16)])
def test_every_decomposition_keeps_the_error_it_foresees_and_beats_its_blind_fit(name, shape):
    site, spectra = _site(*shape), SpectrumCache()
    options = CandidateOptions(slices=(1, 2), rank_multiple=4)
    table = offer_candidates(name, site, "covariance", options, spectra)
    norm = weighted_norm(site.weight, site.kernel)
    assert table.norm == pytest.approx(norm, rel=1e-5)
    for row in {0, len(table) // 2, len(table) - 1} if len(table) else ():
        choice = table.configurations[row]
        built = factorize(site, choice, spectra)
        error = weighted_norm(site.weight, site.kernel - built.reconstruct()) / norm
        assert table.error[row] == pytest.approx(error, abs=1e-4)
        blind = registry.DECOMPOSITIONS[choice.decomposition].factorize(
            Site(site.name, site.kind, site.kernel, site.geometries), choice, spectra
        )
        assert error < weighted_norm(site.weight, site.kernel - blind.reconstruct()) / norm


def test_refitting_two_stages_approaches_the_closed_form():
    site = _site(1, 1, 16, 12)
    choice = Configuration("svd", {"scheme": 0, "slices": 1, "rank": 4})
    blind = registry.DECOMPOSITIONS["svd"].factorize(
        Site(site.name, site.kind, site.kernel), choice, SpectrumCache()
    )
    best = weighted_svd(site.kernel, site.weight.inputs, 0, 1, 4).residual_norms(np.array([4]))[0]
    before = weighted_norm(site.weight, site.kernel - blind.reconstruct())
    again = blind
    for _ in range(6):
        again = refit(site.kernel, again, site.weight)
    after = weighted_norm(site.weight, site.kernel - again.reconstruct())
    assert best * (1 - 1e-4) < after < best + 0.1 * (before - best)


def test_a_chain_that_is_exact_stays():
    site = _site(3, 3, 4, 4)
    exact = registry.DECOMPOSITIONS["svd"].factorize(
        Site(site.name, site.kind, site.kernel),
        Configuration("svd", {"scheme": 0, "slices": 1, "rank": 4}),
        SpectrumCache(),
    )
    again = refit(site.kernel, exact, site.weight)
    assert np.linalg.norm(again.reconstruct() - site.kernel) < 1e-5 * np.linalg.norm(site.kernel)
