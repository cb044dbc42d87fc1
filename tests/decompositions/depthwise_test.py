import numpy as np
import pytest

from tests.reference import tensor_methods
from tests.reference.convolution import convolve, convolve_chain
from tfapprox.accounting.geometry import Geometry
from tfapprox.accounting.site import Site
from tfapprox.decompositions.depthwise import DepthwiseDecomposition
from tfapprox.decompositions.options import CandidateOptions
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.decompositions.svd import SvdDecomposition
from tfapprox.errors import UserError
from tfapprox.metrics import METRICS, relative_error
from tfapprox.selection.problem import Configuration

DEPTHWISE = DepthwiseDecomposition()


def _site(*shape, geometry=None):
    geometry = geometry or Geometry(padding="SAME", input_size=(8, 8))
    kernel = tensor_methods.decaying_kernel(shape, dtype=np.float64)
    return Site("conv", "conv2d", kernel, (geometry,))


def _build(site, rank):
    return DEPTHWISE.factorize(site, Configuration("depthwise", {"rank": rank}), SpectrumCache())


@pytest.mark.parametrize("shape", [(3, 3, 12, 5), (3, 3, 4, 6), (1, 3, 5, 2), (1, 1, 4, 6)])
def test_full_rank_is_exact(shape):
    site = _site(*shape)
    built = DEPTHWISE.factorize(site, DEPTHWISE.full_rank(site), SpectrumCache())
    assert tensor_methods.relative_frobenius(site.kernel, built.reconstruct()) < 1e-13


@pytest.mark.parametrize("rank", [1, 3])
def test_each_filter_is_truncated_by_itself(rank):
    site = _site(3, 3, 12, 5)
    composed = _build(site, rank).reconstruct()
    for channel in range(5):
        matrix = site.kernel[..., channel].reshape(9, 12)
        left, values, right = np.linalg.svd(matrix)
        best = (left[:, :rank] * values[:rank]) @ right[:rank]
        np.testing.assert_allclose(composed[..., channel].reshape(9, 12), best, atol=1e-12)


def test_stages_are_pointwise_then_grouped_and_run_to_the_composed_kernel():
    geometry = Geometry(strides=(2, 2), padding="SAME", input_size=(6, 5))
    site = _site(3, 2, 4, 5, geometry=geometry)
    built = _build(site, 2)
    assert [s.kernel.shape for s in built.stages] == [(1, 1, 4, 10), (3, 2, 2, 5)]
    image = np.random.default_rng(0).normal(size=(6, 5, 4))
    expected, _ = convolve(image, built.reconstruct(), (2, 2), padding="SAME")
    output, count = convolve_chain(image, built, geometry)
    np.testing.assert_allclose(output, expected, atol=1e-10)
    assert built.cost([geometry]).macs == count


def test_every_row_keeps_the_error_and_cost_it_promises():
    site = _site(3, 3, 12, 16)
    table = DEPTHWISE.candidates(site, "operator", CandidateOptions(), SpectrumCache())
    assert [row.settings["rank"] for row in table.configurations] == [1, 2, 3, 4, 5]
    for index, row in enumerate(table.configurations):
        built = DEPTHWISE.factorize(site, row, SpectrumCache())
        true = relative_error(METRICS["operator"], site.kernel, built.reconstruct())
        assert table.error[index] == pytest.approx(true)
        cost = built.cost(site.geometries)
        assert all(column[index] == getattr(cost, k) for k, column in table.cost.items())


def test_the_other_order_is_the_svd_with_a_slice_for_each_input_channel():
    """Depthwise then pointwise: every input channel [H W, O] truncated by itself."""
    site = _site(3, 3, 4, 10)
    svd = Configuration("svd", {"scheme": 0, "slices": 4, "rank": 2})
    built = SvdDecomposition().factorize(site, svd, SpectrumCache())
    assert built.stages[0].kernel.shape == (3, 3, 1, 8) and built.stages[0].groups == 4
    composed = built.reconstruct()
    for channel in range(4):
        matrix = site.kernel[:, :, channel].reshape(9, 10)
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        best = (left[:, :2] * values[:2]) @ right[:2]
        np.testing.assert_allclose(composed[:, :, channel].reshape(9, 10), best, atol=1e-6)


def test_a_1x1_kernel_has_nothing_to_gain_and_ranks_are_checked():
    table = DEPTHWISE.candidates(_site(1, 1, 8, 8), "operator", CandidateOptions(), SpectrumCache())
    assert len(table) == 0
    with pytest.raises(UserError, match="depthwise rank must be from 1 to 4, got 5"):
        _build(_site(3, 3, 4, 6), 5)
