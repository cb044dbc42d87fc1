import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.strategies import divisors, kernels
from tfapprox.accounting.site import Site
from tfapprox.decompositions import spectra
from tfapprox.decompositions.spectra import SpectrumCache, gram
from tfapprox.decompositions.unfolding import unfold
from tfapprox.errors import UserError
from tfapprox.selection.problem import Configuration


def site_of(kernel, name="layer"):
    return Site(name, "conv2d", kernel)


@given(kernels(), st.integers(0, 3), st.data())
def test_values_are_the_singular_values_of_every_slice(kernel, scheme, data):
    slices = data.draw(divisors(kernel.shape[2]))
    values = SpectrumCache().singular_values(site_of(kernel), scheme, slices)
    expected = np.linalg.svd(unfold(kernel, scheme, slices), compute_uv=False)
    # The Gram matrix squares the values: noise is sqrt(eps) of the largest.
    np.testing.assert_allclose(values, expected, atol=1e-7 * max(expected.max(), 1e-300))


@given(kernels(), st.integers(0, 3), st.data())
def test_factors_at_full_rank_are_the_kernel_to_rounding(kernel, scheme, data):
    slices = data.draw(divisors(kernel.shape[2]))
    spectrum = SpectrumCache().spectrum(site_of(kernel), scheme, slices)
    left, right = spectrum.factors(spectrum.values.shape[1])
    product = left @ right.swapaxes(1, 2)
    np.testing.assert_allclose(product, unfold(kernel, scheme, slices), atol=1e-12)


def test_large_kernels_have_the_same_spectrum_by_the_driver_that_saves_memory(monkeypatch):
    kernel = np.random.default_rng(0).standard_normal((3, 3, 8, 12))
    small = SpectrumCache().spectrum(site_of(kernel), 1, 2)
    monkeypatch.setattr(spectra, "_IN_PLACE", 1)
    large = SpectrumCache().spectrum(site_of(kernel), 1, 2)
    np.testing.assert_allclose(large.values, small.values, rtol=1e-10)
    products = [left @ right.swapaxes(1, 2) for left, right in (large.factors(5), small.factors(5))]
    np.testing.assert_allclose(*products, atol=1e-12)


@given(kernels(), st.integers(0, 3))
def test_factors_share_the_singular_values_evenly(kernel, scheme):
    spectrum = SpectrumCache().spectrum(site_of(kernel), scheme)
    left, right = spectrum.factors(1)
    largest = spectrum.values[0, 0]
    np.testing.assert_allclose(np.linalg.norm(left) ** 2, largest, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(right) ** 2, largest, rtol=1e-9)


@given(kernels(), st.integers(0, 3))
def test_scaled_left_holds_the_left_vectors_times_their_values(kernel, scheme):
    scaled = SpectrumCache().spectrum(site_of(kernel), scheme).scaled_left()[0]
    matrix = unfold(kernel, scheme)[0]
    np.testing.assert_allclose(scaled @ scaled.T, matrix @ matrix.T, atol=1e-10)


def test_gram_in_pieces_is_the_gram(monkeypatch):
    monkeypatch.setattr(spectra, "_BLOCK_BYTES", 8 * 3 * 2 * 4)
    matrices = np.random.default_rng(0).standard_normal((2, 3, 17)).astype(np.float32)
    whole = matrices.astype(np.float64)
    np.testing.assert_allclose(gram(matrices), whole @ whole.swapaxes(1, 2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_bases_have_the_kernels_precision_but_no_less_than_single(dtype):
    kernel = np.ones((1, 1, 3, 4), dtype)
    basis = SpectrumCache().spectrum(site_of(kernel)).basis
    assert basis.dtype == max(np.dtype(dtype), np.dtype(np.float32))


def test_a_kernel_of_zeros_factorizes_into_zeros_not_nan():
    spectrum = SpectrumCache().spectrum(site_of(np.zeros((3, 3, 4, 5))))
    left, right = spectrum.factors(2)
    assert np.all(left @ right.swapaxes(1, 2) == 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_kernel_that_is_not_finite_is_refused_by_name(bad):
    kernel = np.ones((1, 1, 3, 4))
    kernel[0, 0, 1, 2] = bad
    with pytest.raises(UserError, match="block/conv"):
        SpectrumCache().singular_values(site_of(kernel, "block/conv"))


@pytest.fixture
def computations(monkeypatch):
    """Counts how often a spectrum is really computed."""
    calls = []
    compute = spectra.compute_spectrum

    def counted(site, scheme, slices):
        calls.append((site.name, scheme, slices))
        return compute(site, scheme, slices)

    monkeypatch.setattr(spectra, "compute_spectrum", counted)
    return calls


def test_every_spectrum_is_computed_once(computations):
    cache, site = SpectrumCache(), site_of(np.ones((1, 1, 4, 4)))
    for slices in (1, 2, 1):
        cache.spectrum(site, 0, slices)
        cache.singular_values(site, 0, slices)
    assert computations == [("layer", 0, 1), ("layer", 0, 2)]


def test_bases_beyond_the_limit_are_dropped_and_values_kept(computations):
    rng = np.random.default_rng(0)
    sites = [site_of(rng.standard_normal((1, 1, 4, 4)), name) for name in "abc"]
    cache = SpectrumCache(max_bytes=2 * 4 * 4 * 8)
    for site in sites:
        cache.spectrum(site)
    for site in sites:
        cache.singular_values(site)
    assert len(computations) == 3
    cache.spectrum(sites[2])
    assert len(computations) == 3
    cache.spectrum(sites[0])
    assert len(computations) == 4


def test_trimming_keeps_what_the_configurations_ask_for_and_computes_nothing_again(monkeypatch):
    kernel = np.random.default_rng(0).standard_normal((3, 3, 8, 16))
    site, cache = site_of(kernel), SpectrumCache()
    whole = cache.spectrum(site, 1)
    values = cache.singular_values(site, 0)
    ranks = [Configuration("svd", {"scheme": 1, "slices": 1, "rank": rank}) for rank in (2, 5)]
    cache.trim(site, ranks)
    calls = []
    compute = spectra.compute_spectrum
    monkeypatch.setattr(spectra, "compute_spectrum", lambda *a: calls.append(a) or compute(*a))
    trimmed = cache.spectrum(site, 1, rank=5)
    assert trimmed.basis.shape[2] == 5 and not calls
    for got, want in zip(trimmed.factors(5), whole.factors(5), strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(cache.singular_values(site, 0), values)
    assert cache.spectrum(site, 1).basis.shape[2] == 24 and len(calls) == 1


def test_trimming_leaves_a_site_alone_that_another_decomposition_may_ask_about():
    site, cache = site_of(np.random.default_rng(0).standard_normal((1, 1, 8, 16))), SpectrumCache()
    cache.spectrum(site)
    cache.trim(site, [Configuration("tucker2", {"rank_in": 2, "rank_out": 2})])
    assert cache.spectrum(site, rank=8).basis.shape[2] == 8


def test_released_spectra_keep_their_values():
    site, cache = site_of(np.random.default_rng(0).standard_normal((1, 1, 8, 16))), SpectrumCache()
    values = cache.spectrum(site).values
    cache.release()
    assert cache.holds(site)
    np.testing.assert_array_equal(cache.singular_values(site), values)
