import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.strategies import divisors, kernels
from tfapprox.accounting.site import Site
from tfapprox.decompositions.spectra import SpectrumCache
from tfapprox.decompositions.svd import SvdDecomposition
from tfapprox.metrics import frobenius
from tfapprox.metrics.frobenius import FrobeniusNorm, tail_energy
from tfapprox.selection.problem import Configuration


@given(kernels(), st.integers(0, 3), st.data())
def test_the_residual_has_the_energy_of_the_tail(kernel, scheme, data):
    slices = data.draw(divisors(kernel.shape[2]))
    site, spectra = Site("layer", "conv2d", kernel), SpectrumCache()
    spectrum = spectra.spectrum(site, scheme, slices)
    rank = data.draw(st.integers(1, spectrum.values.shape[1]))
    choice = Configuration("svd", {"scheme": scheme, "slices": slices, "rank": rank})
    built = SvdDecomposition().factorize(site, choice, spectra)
    expected = np.linalg.norm(kernel - built.reconstruct())
    actual = FrobeniusNorm().residual_norms(spectrum, np.array([rank]))[0]
    # Singular values from a Gram matrix carry noise of sqrt(eps) of the largest.
    assert actual == pytest.approx(expected, rel=1e-6, abs=1e-7 * np.linalg.norm(kernel))


@given(kernels(np.float32))
def test_norm_is_the_root_of_the_sum_of_squares(kernel):
    expected = np.linalg.norm(kernel.astype(np.float64))
    assert FrobeniusNorm().norm(kernel) == pytest.approx(expected, rel=1e-6)
    site = Site("layer", "conv2d", kernel)
    assert FrobeniusNorm().site_norm(site, SpectrumCache()) == pytest.approx(expected, rel=1e-6)


def test_squares_of_half_precision_entries_do_not_overflow():
    kernel = np.full((1, 1, 30, 40), 1000, np.float16)
    assert FrobeniusNorm().norm(kernel) == pytest.approx(1000 * np.sqrt(1200))


def test_a_kernel_is_summed_up_in_pieces(monkeypatch):
    monkeypatch.setattr(frobenius, "_PIECE", 7)
    kernel = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    assert FrobeniusNorm().norm(kernel) == pytest.approx(np.linalg.norm(kernel))


def test_small_tails_keep_their_precision_beside_large_values():
    tail = tail_energy(np.array([[1e9, 1e-9], [1.0, 2e-9]]))
    np.testing.assert_allclose(tail, [1e18, 5e-18, 0.0], rtol=1e-12)
