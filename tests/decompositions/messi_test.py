import numpy as np
import pytest

from tests.reference import tensor_methods
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.decompositions.messi import MessiDecomposition, nonzeros
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.decompositions.svd import SvdDecomposition
from tfapprox.errors import UserError
from tfapprox.metrics import METRICS, relative_error
from tfapprox.selection.problem import Configuration

MESSI = MessiDecomposition()


def _site(kernel):
    return Site("conv", "conv2d", kernel, (Geometry(padding="SAME", input_size=(8, 8)),))


def _build(site, slices, rank):
    row = Configuration("messi", {"slices": slices, "rank": rank})
    return MESSI.factorize(site, row, SpectrumCache())


def test_full_rank_is_exact():
    site = _site(tensor_methods.decaying_kernel((3, 3, 4, 20), dtype=np.float64))
    built = MESSI.factorize(site, MESSI.full_rank(site), SpectrumCache())
    assert tensor_methods.relative_frobenius(site.kernel, built.reconstruct()) < 1e-12


def test_planted_subspaces_are_found_though_they_cross_the_slices():
    """Three columns in a hundred begin in the wrong slice; their own subspace holds them."""
    generator = np.random.default_rng(0)
    bases = generator.normal(size=(2, 2, 16))
    labels = np.tile(np.repeat([0, 1], 10), 9)
    labels[generator.permutation(180)[:6]] ^= 1
    columns = np.einsum("dr,dro->do", generator.normal(size=(180, 2)), bases[labels])
    kernel = columns.reshape(3, 3, 20, 16)
    built = _build(_site(kernel), slices=2, rank=2)
    assert tensor_methods.relative_frobenius(kernel, built.reconstruct()) < 1e-10
    assert np.count_nonzero(built.stages[0].kernel) == 180 * 2
    assert nonzeros(_site(kernel), 2, 2) == sum(np.count_nonzero(s.kernel) for s in built.stages)


@pytest.mark.parametrize("rank", [2, 5, 9])
def test_it_loses_no_more_than_slices_and_no_less_than_the_svd_of_equal_dense_cost(rank):
    site = _site(tensor_methods.decaying_kernel((3, 3, 8, 24), decay=0.3, dtype=np.float64))

    def error(method, **settings):
        row = Configuration(method, settings)
        decomposition = MESSI if method == "messi" else SvdDecomposition()
        built = decomposition.factorize(site, row, SpectrumCache())
        return tensor_methods.relative_frobenius(site.kernel, built.reconstruct())

    messi = error("messi", slices=2, rank=rank)
    assert messi < error("svd", scheme=0, slices=2, rank=rank)
    assert messi > error("svd", scheme=0, slices=1, rank=2 * rank)


def test_every_row_keeps_the_error_and_the_dense_cost_it_promises():
    site = _site(tensor_methods.decaying_kernel((3, 3, 8, 64)))
    options = CandidateOptions(slices=(1, 2, 3, 4), rank_multiple=2)
    table = MESSI.candidates(site, "operator", options, SpectrumCache())
    assert {row.settings["slices"] for row in table.configurations} == {2, 4}
    for index, row in enumerate(table.configurations):
        built = MESSI.factorize(site, row, SpectrumCache())
        true = relative_error(METRICS["operator"], site.kernel, built.reconstruct())
        assert table.error[index] == pytest.approx(true, rel=1e-4)
        assert table.cost["params"][index] == sum(s.kernel.size for s in built.stages)
        assert table.cost["macs"][index] == built.cost(site.geometries).macs


def test_settings_that_do_not_fit_are_refused():
    site = _site(tensor_methods.decaying_kernel((3, 3, 8, 24)))
    with pytest.raises(UserError, match="slices must be among 1, 2, 4, 8, got 3"):
        _build(site, 3, 2)
    with pytest.raises(UserError, match="rank must be from 1 to 24, got 25"):
        _build(site, 2, 25)
