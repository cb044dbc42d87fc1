import numpy as np
import pytest

from tests.reference import tensor_methods
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.decompositions.hooi import hooi, leading_vectors, truncation_energy
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.decompositions.svd import SvdDecomposition
from tfapprox.decompositions.tucker import TuckerDecomposition, pair_cost
from tfapprox.errors import UserError
from tfapprox.metrics import METRICS, relative_error
from tfapprox.selection.problem import Configuration

TUCKER = TuckerDecomposition()
SAME_14 = Geometry(padding="SAME", input_size=(14, 14))


def _site(*shape, **options):
    kernel = tensor_methods.decaying_kernel(shape, **options)
    return Site(f"site{shape}", "conv2d", kernel, (SAME_14,))


def _build(site, rank_in, rank_out):
    row = Configuration("tucker2", {"rank_in": rank_in, "rank_out": rank_out})
    return TUCKER.factorize(site, row, SpectrumCache())


@pytest.mark.parametrize("shape", [(3, 3, 12, 20), (1, 5, 9, 4), (3, 1, 40, 2), (3, 3, 2, 30)])
def test_full_rank_is_exact(shape):
    site = _site(*shape)
    built = TUCKER.factorize(site, TUCKER.full_rank(site), SpectrumCache())
    # float32 with two rotations: a few roundings of 6e-8 each.
    assert tensor_methods.relative_frobenius(site.kernel, built.reconstruct()) < 2e-6


def test_stages_run_to_what_the_composed_kernel_gives():
    site = _site(3, 2, 5, 7)
    built = _build(site, 3, 4)
    image = np.random.default_rng(1).normal(size=(6, 5, 5))
    expected = tensor_methods.grouped_convolution(image, built.reconstruct())
    np.testing.assert_allclose(tensor_methods.run_stages(image, built), expected, atol=1e-5)
    assert [s.kernel.shape for s in built.stages] == [(1, 1, 5, 3), (3, 2, 3, 4), (1, 1, 4, 7)]


@pytest.mark.parametrize(("rank_in", "rank_out"), [(2, 3), (5, 5), (9, 4), (12, 6)])
def test_agrees_with_hooi_by_explicit_unfoldings(rank_in, rank_out):
    site = _site(3, 3, 12, 16)
    reference = tensor_methods.tucker2(site.kernel, rank_in, rank_out, sweeps=30)
    error = tensor_methods.relative_frobenius(site.kernel, reference)
    built = _build(site, rank_in, rank_out).reconstruct()
    # We stop when a sweep gains less than 1e-3 of the squared error.
    assert tensor_methods.relative_frobenius(site.kernel, built) <= error * (1 + 2e-3)


def test_squared_error_is_what_the_core_lacks():
    site = _site(3, 3, 12, 16, dtype=np.float64)
    spectra = SpectrumCache()
    start = [leading_vectors(site, side, 5, spectra) for side in ("in", "out")]
    core, basis_in, basis_out = hooi(site.kernel, *start)
    for basis in (basis_in, basis_out):
        np.testing.assert_allclose(basis.T @ basis, np.eye(5), atol=1e-12)
    lost = np.sum(site.kernel**2) - np.sum(core**2)
    residual = site.kernel - basis_in @ core @ basis_out.T
    assert np.sum(residual**2) == pytest.approx(lost, rel=1e-10)


@pytest.mark.parametrize("shape", [(3, 3, 6, 8), (1, 3, 20, 4), (2, 2, 3, 15), (2, 2, 8, 2)])
def test_truncation_energy_is_the_error_of_every_truncated_pair(shape):
    site = _site(*shape, dtype=np.float64)
    spectra = SpectrumCache()
    energy = truncation_energy(site, spectra)
    for rank_in in range(1, energy.shape[0] + 1):
        for rank_out in range(1, energy.shape[1] + 1):
            basis_in = leading_vectors(site, "in", rank_in, spectra)
            basis_out = leading_vectors(site, "out", rank_out, spectra)
            projected = basis_in @ (basis_in.T @ site.kernel @ basis_out) @ basis_out.T
            lost = np.sum((site.kernel - projected) ** 2)
            total = np.sum(site.kernel**2)
            assert energy[rank_in - 1, rank_out - 1] == pytest.approx(lost, abs=1e-12 * total)


@pytest.mark.parametrize("metric", ["frobenius", "operator"])
def test_every_row_keeps_the_error_and_cost_it_promises(metric):
    site = _site(3, 3, 24, 32)
    table = TUCKER.candidates(site, metric, CandidateOptions(rank_multiple=4), SpectrumCache())
    assert len(table) > 5
    for index, row in enumerate(table.configurations):
        built = TUCKER.factorize(site, row, SpectrumCache())
        true = relative_error(METRICS[metric], site.kernel, built.reconstruct())
        assert table.error[index] == pytest.approx(true, rel=1e-4)
        cost = built.cost(site.geometries)
        assert all(column[index] == getattr(cost, k) for k, column in table.cost.items())
        assert cost.params < site.cost.params or cost.macs < site.cost.macs


def test_iteration_is_never_worse_than_truncation():
    site = _site(3, 3, 16, 24, decay=0.2)
    energy = truncation_energy(site, SpectrumCache())
    for rank in (2, 6, 10):
        lost = np.sum((site.kernel - _build(site, rank, rank).reconstruct()) ** 2)
        assert lost <= energy[rank - 1, rank - 1] * (1 + 1e-5)


def test_rows_include_the_pair_that_evbmf_asks_for():
    generator = np.random.default_rng(0)
    signal = tensor_methods.decaying_kernel((3, 3, 6, 10), decay=0.0)
    kernel = np.einsum(
        "hwrs,ir,os->hwio",
        signal,
        np.linalg.qr(generator.normal(size=(48, 6)))[0],
        np.linalg.qr(generator.normal(size=(64, 10)))[0],
    ) + 0.02 * generator.normal(size=(3, 3, 48, 64))
    site = Site("planted", "conv2d", kernel.astype(np.float32), (SAME_14,))
    table = TUCKER.candidates(site, "frobenius", CandidateOptions(rank_multiple=2), SpectrumCache())
    assert table.noise_ranks[0] == {"rank_in": 6, "rank_out": 10}
    assert len(table.noise_ranks) == len(table)
    assert {"rank_in": 6, "rank_out": 10} in [row.settings for row in table.configurations]


def test_ratios_are_the_papers():
    """Elhoushi et al. 2021, Equations 10 and 11.

    Equation 11 counts the first stage at the input's size and the others at the
    output's, so a strided layer gains less in MACs than in parameters; we count alike.
    """
    h, w, c_in, c_out, k1, k2 = 3, 3, 64, 128, 20, 40
    geometry = Geometry(strides=(2, 2), padding="SAME", input_size=(32, 32))
    site = Site("strided", "conv2d", np.zeros((h, w, c_in, c_out), np.float32), (geometry,))
    cost = pair_cost(site, k1, k2)
    weights = c_in * k1 + h * w * k1 * k2 + c_out * k2
    assert site.cost.params / cost.params == h * w * c_in * c_out / weights
    speedup = (h * w * c_in * c_out * 16 * 16) / (
        c_in * k1 * 32 * 32 + h * w * k1 * k2 * 16 * 16 + c_out * k2 * 16 * 16
    )
    assert site.cost.macs / cost.macs == speedup
    assert speedup < site.cost.params / cost.params


def test_a_1x1_kernel_gets_the_truncated_svd():
    kernel = tensor_methods.decaying_kernel((1, 1, 40, 24))
    site = Site("dense", "dense", kernel)
    spectra, options = SpectrumCache(), CandidateOptions(schemes=(0,))
    table = TUCKER.candidates(site, "operator", options, spectra)
    svd = SvdDecomposition().candidates(site, "operator", options, spectra)
    np.testing.assert_array_equal(table.error, svd.error)
    assert [row.settings["rank_in"] for row in table.configurations] == [8]
    assert len(_build(site, 8, 8).stages) == 2
    with pytest.raises(UserError, match="must be equal, got 8 and 4"):
        _build(site, 8, 4)


def test_ranks_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="rank_in must be from 1 to 12, got 13"):
        _build(_site(3, 3, 12, 20), 13, 20)
    with pytest.raises(UserError, match="takes the settings rank_in, rank_out, got rank"):
        TUCKER.factorize(
            _site(3, 3, 12, 20), Configuration("tucker2", {"rank": 3}), SpectrumCache()
        )


def test_a_kernel_of_zeros_is_met_exactly():
    site = Site("zeros", "conv2d", np.zeros((3, 3, 16, 16), np.float32), (SAME_14,))
    table = TUCKER.candidates(site, "operator", CandidateOptions(), SpectrumCache())
    assert len(table) and not table.error.any()
