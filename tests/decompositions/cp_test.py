import numpy as np
import pytest

from tests.reference import tensor_methods
from tests.reference.convolution import convolve, convolve_chain
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.decompositions.cp import CpDecomposition
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.errors import UserError
from tfapprox.metrics import METRICS, relative_error
from tfapprox.selection.problem import Configuration

CP = CpDecomposition()


def _site(*shape, geometry=None, **options):
    geometry = geometry or Geometry(padding="SAME", input_size=(14, 14))
    kernel = tensor_methods.decaying_kernel(shape, **options)
    return Site(f"site{shape}", "conv2d", kernel, (geometry,))


def _build(site, rank):
    return CP.factorize(site, Configuration("cp", {"rank": rank}), SpectrumCache())


@pytest.mark.parametrize("shape", [(3, 3, 4, 6), (1, 5, 6, 3), (3, 1, 2, 7), (1, 1, 6, 5)])
def test_full_rank_is_exact(shape):
    site = _site(*shape)
    built = CP.factorize(site, CP.full_rank(site), SpectrumCache())
    assert tensor_methods.relative_frobenius(site.kernel, built.reconstruct()) < 2e-6


@pytest.mark.parametrize(
    ("shape", "kernels"),
    [
        ((3, 2, 5, 4), [(1, 1, 5, 6), (3, 1, 1, 6), (1, 2, 1, 6), (1, 1, 6, 4)]),
        ((1, 3, 5, 4), [(1, 1, 5, 6), (1, 3, 1, 6), (1, 1, 6, 4)]),
    ],
)
def test_stages_are_per_channel_between_two_1x1(shape, kernels):
    geometry = Geometry(strides=(2, 1), dilations=(1, 2), padding="SAME", input_size=(6, 7))
    site = _site(*shape, geometry=geometry)
    built = _build(site, 6)
    assert [stage.kernel.shape for stage in built.stages] == kernels
    image = np.random.default_rng(1).normal(size=(6, 7, 5))
    expected, _ = convolve(image, built.reconstruct(), (2, 1), (1, 2), "SAME")
    output, count = convolve_chain(image, built, geometry)
    np.testing.assert_allclose(output, expected, atol=1e-5)
    assert built.cost([geometry]).macs == count


@pytest.mark.parametrize("metric", ["frobenius", "operator"])
def test_every_row_keeps_the_error_and_cost_it_promises(metric):
    site = _site(3, 3, 16, 24)
    table = CP.candidates(site, metric, CandidateOptions(), SpectrumCache())
    assert 4 < len(table) <= 8
    for index, row in enumerate(table.configurations):
        built = CP.factorize(site, row, SpectrumCache())
        true = relative_error(METRICS[metric], site.kernel, built.reconstruct())
        assert table.error[index] == pytest.approx(true, rel=1e-4)
        cost = built.cost(site.geometries)
        assert all(column[index] == getattr(cost, k) for k, column in table.cost.items())
        assert cost.params < site.cost.params or cost.macs < site.cost.macs
    assert (np.diff(table.error) < 0).all()


def test_a_1x1_kernel_gets_two_stages():
    site = Site("dense", "dense", tensor_methods.decaying_kernel((1, 1, 40, 24)))
    table = CP.candidates(site, "operator", CandidateOptions(), SpectrumCache())
    assert [row.settings for row in table.configurations] == [{"rank": 8}]
    assert len(_build(site, 8).stages) == 2


def test_ranks_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="cp rank must be from 1 to 36, got 37"):
        _build(_site(3, 3, 4, 6), 37)


def test_a_kernel_of_zeros_is_met_exactly():
    site = Site("zeros", "conv2d", np.zeros((3, 3, 8, 8), np.float32))
    table = CP.candidates(site, "operator", CandidateOptions(), SpectrumCache())
    assert len(table) and not table.error.any()
