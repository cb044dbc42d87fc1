import numpy as np
import pytest

from tests.reference import tensor_methods
from tfapprox.decompositions import canonical
from tfapprox.decompositions.canonical import Terms, fit_terms, orthogonal_terms

SHAPES = [(3, 3, 4, 5), (1, 5, 6, 3), (2, 3, 1, 4), (3, 1, 5, 2)]


def _kernel(shape=(3, 3, 6, 8), seed=0):
    return tensor_methods.decaying_kernel(shape, decay=0.3, seed=seed, dtype=np.float64)


def _random_terms(rank, shape=(3, 2, 5, 4), seed=0):
    generator = np.random.default_rng(seed)
    return Terms(*(generator.normal(size=(size, rank)) for size in shape))


def _lost(kernel, terms):
    return np.sum((kernel - tensor_methods.sum_of_terms(*terms.factors)) ** 2)


def test_terms_compose_to_their_sum():
    terms = _random_terms(3)
    expected = tensor_methods.sum_of_terms(*terms.factors)
    np.testing.assert_allclose(terms.compose(), expected, atol=1e-12)
    np.testing.assert_allclose(terms.balanced().compose(), expected, atol=1e-12)
    norms = [np.linalg.norm(factor, axis=0) for factor in terms.balanced().factors]
    np.testing.assert_allclose(norms, np.broadcast_to(norms[0], (4, 3)), rtol=1e-12)


def test_sensitivity_is_the_mean_squared_change_under_noise():
    terms, generator = _random_terms(3), np.random.default_rng(1)
    step, draws, total = 1e-5, 4000, 0.0
    for _ in range(draws):
        noisy = Terms(*(f + step * generator.normal(size=f.shape) for f in terms.factors))
        total += np.sum((noisy.compose() - terms.compose()) ** 2)
    # The squared change has a relative spread below 1: its mean over 4000 draws is within
    # 7 % with a false-failure rate below 1e-5.
    assert total / draws / step**2 == pytest.approx(terms.sensitivity(), rel=0.07)


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_terms_lose_exactly_what_is_left_out(shape):
    kernel = _kernel(shape)
    height, width, in_channels, out_channels = shape
    full = height * width * min(in_channels, out_channels)
    lost = [_lost(kernel, orthogonal_terms(kernel, rank)) for rank in range(1, full + 1)]
    assert lost[-1] < 1e-24 * np.sum(kernel**2) * full
    assert (np.diff(lost) <= 1e-12).all()
    for rank in (1, full // 2 + 1):
        terms = orthogonal_terms(kernel, rank).factors
        products = np.prod([factor.T @ factor for factor in terms], axis=0)
        np.testing.assert_allclose(products, np.diag(np.diag(products)), atol=1e-10)
        assert lost[rank - 1] == pytest.approx(np.sum(kernel**2) - np.trace(products), abs=1e-9)


def test_a_sweep_is_least_squares_on_each_axis_in_turn(monkeypatch):
    monkeypatch.setattr(canonical, "_PROXIMITY", 1e-12)
    kernel = _kernel()
    start = orthogonal_terms(kernel, 7)
    swept = canonical._sweep(kernel[None], Terms(*(factor[None] for factor in start.factors)))
    expected = tensor_methods.least_squares_sweep(kernel, start.factors)
    np.testing.assert_allclose(
        swept.compose()[0], tensor_methods.sum_of_terms(*expected), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("rank", [1, 5, 20])
def test_fitting_gains_on_the_start_and_never_loses(rank):
    kernel = _kernel()
    start = orthogonal_terms(kernel, rank)
    fitted = fit_terms(kernel, start, growth=4.0)
    assert _lost(kernel, fitted) < _lost(kernel, start)


def test_many_kernels_are_fitted_as_each_is_by_itself():
    """One is exact from the start, one zero: theirs end at once, the others' sweeps go on."""
    exact = orthogonal_terms(_kernel(seed=1), 6).compose()
    kernels = np.stack([_kernel(), exact, np.zeros_like(exact), _kernel(seed=2)])
    start = orthogonal_terms(kernels, 6)
    fitted = fit_terms(kernels, start, growth=4.0)
    assert [factor.shape for factor in fitted.factors] == [(4, n, 6) for n in (3, 3, 6, 8)]
    for index, kernel in enumerate(kernels):
        alone = fit_terms(kernel, orthogonal_terms(kernel, 6), growth=4.0)
        np.testing.assert_allclose(fitted.compose()[index], alone.compose(), atol=1e-9)
        sensitivity = Terms(*(factor[index] for factor in fitted.factors)).sensitivity()
        assert fitted.sensitivity()[index] == pytest.approx(sensitivity)


def test_the_leading_orthogonal_terms_are_those_of_a_lower_rank():
    kernel = _kernel()
    few, many = orthogonal_terms(kernel, 5), orthogonal_terms(kernel, 20).leading(5)
    for factor, same in zip(few.factors, many.factors, strict=True):
        np.testing.assert_array_equal(factor, same)


def test_an_exact_start_stays_exact():
    kernel = _kernel((2, 3, 4, 3))
    fitted = fit_terms(kernel, orthogonal_terms(kernel, 18), growth=4.0)
    assert _lost(kernel, fitted) < 1e-20 * np.sum(kernel**2)


def test_terms_do_not_grow_to_cancel_one_another(monkeypatch):
    """A kernel that two terms approach the better the larger they are and cancel."""
    monkeypatch.setattr(canonical, "_SWEEPS", 1000)
    kernel, generator = tensor_methods.border_rank_kernel(), np.random.default_rng(1)
    start = orthogonal_terms(kernel, 2)
    start = Terms(*(f + 0.1 * generator.normal(size=f.shape) for f in start.factors)).balanced()
    free, bounded = (fit_terms(kernel, start, growth, gain=0.0) for growth in (np.inf, 4.0))
    assert free.sensitivity() > 8 * start.sensitivity()
    assert bounded.sensitivity() <= 4 * start.sensitivity()
    # And what the bound costs is little: 0.5 % of the kernel's energy.
    assert _lost(kernel, bounded) < _lost(kernel, free) + 0.005 * np.sum(kernel**2)
