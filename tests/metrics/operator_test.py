import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.strategies import divisors, kernels
from tfapprox.accounting.site import Site
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.decompositions.svd import SvdDecomposition
from tfapprox.metrics.operator import OperatorBound, OperatorNorm
from tfapprox.selection.problem import Configuration


def scheme_zero(kernel):
    return kernel.reshape(-1, kernel.shape[3])


def residuals_by_building(kernel, scheme, slices, ranks):
    """||W - W_hat||_2 from the stages themselves."""
    site, spectra, norms = Site("layer", "conv2d", kernel), SpectrumCache(), []
    for rank in ranks:
        if rank == 0:
            norms.append(np.linalg.norm(scheme_zero(kernel), 2))
            continue
        choice = Configuration("svd", {"scheme": scheme, "slices": slices, "rank": int(rank)})
        built = SvdDecomposition().factorize(site, choice, spectra)
        norms.append(np.linalg.norm(scheme_zero(kernel - built.reconstruct()), 2))
    return np.array(norms)


@given(kernels(), st.integers(0, 3), st.data())
def test_curve_is_the_norm_of_what_is_left_out(kernel, scheme, data):
    slices = data.draw(divisors(kernel.shape[2]))
    spectrum = SpectrumCache().spectrum(Site("layer", "conv2d", kernel), scheme, slices)
    ranks = np.arange(0, spectrum.values.shape[1] + 1, data.draw(st.integers(1, 3)))
    curve = OperatorNorm().residual_norms(spectrum, ranks)
    expected = residuals_by_building(kernel, scheme, slices, ranks)
    # Singular values from a Gram matrix carry noise of sqrt(eps) of the largest.
    np.testing.assert_allclose(curve, expected, rtol=1e-6, atol=1e-7 * expected.max())


@pytest.mark.parametrize("shape", [(3, 3, 40, 96), (3, 3, 96, 40), (1, 1, 90, 200), (3, 1, 2, 150)])
@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("scheme", [0, 1, 2, 3])
def test_curve_holds_in_single_precision_and_beyond_the_dense_eigensolver(shape, slices, scheme):
    kernel = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    spectrum = SpectrumCache().spectrum(Site("layer", "conv2d", kernel), scheme, slices)
    full = spectrum.values.shape[1]
    ranks = np.unique([0, full // 3, full // 2, full - 1])
    curve = OperatorNorm().residual_norms(spectrum, ranks)
    expected = residuals_by_building(kernel, scheme, slices, ranks)
    np.testing.assert_allclose(curve, expected, rtol=2e-5)


@given(kernels())
def test_norm_is_the_largest_singular_value(kernel):
    expected = np.linalg.norm(scheme_zero(kernel), 2)
    assert OperatorNorm().norm(kernel) == pytest.approx(expected, rel=1e-9)
    site = Site("layer", "conv2d", kernel)
    assert OperatorNorm().site_norm(site, SpectrumCache()) == pytest.approx(expected, rel=1e-9)


@given(kernels(), st.integers(0, 3), st.data())
def test_the_bound_of_theorem_1_is_never_below_the_true_norm(kernel, scheme, data):
    slices = data.draw(divisors(kernel.shape[2]))
    spectrum = SpectrumCache().spectrum(Site("layer", "conv2d", kernel), scheme, slices)
    ranks = np.arange(spectrum.values.shape[1] + 1)
    bound = OperatorBound().residual_norms(spectrum, ranks)
    true = OperatorNorm().residual_norms(spectrum, ranks)
    assert np.all(bound >= true - 1e-7 * true.max())


def test_the_bound_is_reached_by_equal_slices():
    # Every slice loses the same direction: squares add up, and sqrt(k) is needed.
    slice_kernel = np.diag([3.0, 1.0])[None, None]
    kernel = np.concatenate([slice_kernel] * 4, axis=2)
    spectrum = SpectrumCache().spectrum(Site("layer", "dense", kernel), 0, 4)
    rank = np.array([1])
    assert OperatorNorm().residual_norms(spectrum, rank) == pytest.approx(2.0)
    assert OperatorBound().residual_norms(spectrum, rank) == pytest.approx(2.0)
