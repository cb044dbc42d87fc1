import dataclasses
import types

import numpy as np
import pytest

from tfapprox import registry
from tfapprox.accounting.factorization import Stage
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.calibration.moments import MomentAccumulator
from tfapprox.calibration.weights import CovarianceWeight, weighted_norm
from tfapprox.decompositions import refitting
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


STAGES = [
    Stage(np.zeros((3, 1, 2, 6)), 3, (True, False), np.array([4, 0, 5, 1, 3, 2])),
    Stage(np.zeros((1, 1, 6, 4)), 1, (False, False)),
    Stage(np.zeros((1, 1, 1, 12)), 6, (False, False)),
]


@pytest.mark.parametrize("stage", STAGES)
def test_pulling_back_is_the_transpose_of_composing(stage):
    rng = np.random.default_rng(0)
    kernel, before = rng.standard_normal(stage.kernel.shape), rng.standard_normal((1, 2, 5, 6))
    stage = dataclasses.replace(stage, kernel=kernel)
    composed, alone = stage.after(before), stage.ungrouped()
    gradient, other = rng.standard_normal(composed.shape), rng.standard_normal(alone.shape)
    forth = float(np.vdot(composed, gradient))
    assert np.vdot(before, refitting._through(stage, gradient)) == pytest.approx(forth)
    assert np.vdot(kernel, refitting._to_kernel(stage, before, gradient)) == pytest.approx(forth)
    pulled = refitting._to_kernel(stage, None, other)
    assert np.vdot(kernel, pulled) == pytest.approx(float(np.vdot(alone, other)))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tucker2", {"rank_in": 3, "rank_out": 4}),
        ("cp", {"rank": 5}),
        ("bicluster_svd", {"groups_in": 2, "groups_out": 3, "rank_in": 2, "rank_out": 2}),
    ],
)
def test_knowing_the_moment_only_saves_work(name, settings, monkeypatch):
    """Closed forms and waists find what conjugate gradients on whole kernels do."""
    monkeypatch.setattr(refitting, "_GAIN", 0.0)
    monkeypatch.setattr(refitting, "_STEPS", 400)
    monkeypatch.setattr(refitting, "_SWEEPS", 1)
    site = _site(3, 3, 8, 12)
    method = registry.DECOMPOSITIONS[name]
    plain = dataclasses.replace(site, weight=None)
    built = method.factorize(plain, Configuration(name, settings), SpectrumCache())
    opaque = types.SimpleNamespace(inputs=None, outputs=None, apply=site.weight.apply)
    known, unknown = (refit(site.kernel, built, weight) for weight in (site.weight, opaque))
    whole = weighted_norm(site.weight, site.kernel)
    apart = weighted_norm(site.weight, known.reconstruct() - unknown.reconstruct())
    assert apart < 1e-2 * whole
    lost = [weighted_norm(site.weight, site.kernel - x.reconstruct()) for x in (known, unknown)]
    assert lost[0] == pytest.approx(lost[1], rel=1e-3)


def test_the_last_stage_is_the_least_squares_solution_of_every_group():
    site = _site(3, 3, 8, 12)
    settings = {"groups_in": 2, "groups_out": 3, "rank": 2}
    built = registry.DECOMPOSITIONS["bicluster_cp"].factorize(
        dataclasses.replace(site, weight=None),
        Configuration("bicluster_cp", settings),
        SpectrumCache(),
    )
    problem = refitting._Problem(site.kernel.astype(float), site.weight, built.output_order)
    solved = refitting._solve_last(problem, built.stages)
    front = dataclasses.replace(built, stages=built.stages[:2], output_order=None)
    root = np.linalg.cholesky(site.weight.inputs.astype(float)).T
    seen = root @ front.reconstruct()[..., solved.input_order].reshape(len(root), -1)
    inverse = np.argsort(built.output_order)
    wanted = (root @ site.kernel.reshape(len(root), -1))[:, inverse]
    for group in range(3):
        inputs = seen[:, group * 4 : group * 4 + 4]
        best = np.linalg.lstsq(inputs, wanted[:, group * 4 : group * 4 + 4])[0]
        found = solved.kernel[0, 0, :, group * 4 : group * 4 + 4]
        np.testing.assert_allclose(inputs @ found, inputs @ best, atol=1e-3 * abs(wanted).max())


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
