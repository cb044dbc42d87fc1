import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.calibration import reduced_rank_regression
from tests.reference.strategies import divisors, kernels
from tfapprox.decompositions.weighted_svd import weighted_svd, weighted_svd_of_outputs


def _inputs(size, seed=0):
    """Returns rows whose directions differ in size a hundredfold, and their moment."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.standard_normal((size, size)))[0] * np.geomspace(1, 0.01, size)
    rows = rng.standard_normal((3 * size + 10, size)) @ mixing.T
    return rows, rows.T @ rows / len(rows)


def _output_error(rows, difference):
    return np.linalg.norm(rows @ difference.reshape(rows.shape[1], -1)) / np.sqrt(len(rows))


@given(kernels(), st.integers(0, 3), st.data())
def test_the_error_foreseen_is_that_of_the_outputs_for_every_scheme(kernel, scheme, data):
    slices = data.draw(divisors(kernel.shape[2]))
    rows, moment = _inputs(kernel[..., 0].size)
    fit = weighted_svd(kernel, moment, scheme, slices, most=10**6)
    full = fit.first.shape[2]
    norm = _output_error(rows, kernel)
    errors = fit.residual_norms(np.arange(full + 1))
    # The difference of two energies holds the root of the precision (and of the jitter).
    assert errors[0] == pytest.approx(norm) and errors[full] < 1e-5 * norm
    assert np.all(np.diff(errors) <= 1e-12 * norm)
    for rank in {1, (full + 1) // 2, full}:
        built = fit.factorization(rank, np.float64).reconstruct()
        assert _output_error(rows, kernel - built) == pytest.approx(errors[rank], abs=2e-5 * norm)


@given(kernels(), st.integers(1, 4))
def test_scheme_0_is_the_reduced_rank_regression(kernel, rank):
    rows, moment = _inputs(kernel[..., 0].size)
    target = rows @ kernel.reshape(rows.shape[1], -1)
    best = np.linalg.norm(target - rows @ reduced_rank_regression(rows, target, rank))
    fit = weighted_svd(kernel, moment, 0, 1, most=10**6)
    rank = min(rank, fit.first.shape[2])
    error = fit.residual_norms(np.array([rank]))[0] * np.sqrt(len(rows))
    assert error == pytest.approx(best, abs=2e-5 * np.linalg.norm(target))


@given(kernels())
def test_the_outputs_moment_alone_gives_the_same_as_the_inputs(kernel):
    rows, moment = _inputs(kernel[..., 0].size)
    matrix = kernel.reshape(len(moment), -1)
    fit = weighted_svd(kernel, moment, 0, 1, most=10**6)
    alone = weighted_svd_of_outputs(kernel, matrix.T @ moment @ matrix, most=10**6)
    ranks = np.arange(alone.first.shape[2] + 1)
    norm = _output_error(rows, kernel)
    np.testing.assert_allclose(
        alone.residual_norms(ranks), fit.residual_norms(ranks), atol=1e-5 * norm
    )
    built = alone.factorization(1, np.float64).reconstruct()
    expected = alone.residual_norms(np.array([1]))[0]
    assert _output_error(rows, kernel - built) == pytest.approx(expected, abs=1e-5 * norm)


@pytest.mark.parametrize("scheme", [0, 1, 2, 3])
def test_white_inputs_give_the_truncated_svd_back(scheme):
    from tfapprox.accounting.site import Site
    from tfapprox.decompositions.spectra import compute_spectrum
    from tfapprox.metrics import FrobeniusNorm

    kernel = np.random.default_rng(0).standard_normal((3, 2, 6, 7))
    spectrum = compute_spectrum(Site("site", "conv2d", kernel), scheme, 2)
    ranks = np.arange(spectrum.values.shape[1] + 1)
    fit = weighted_svd(kernel, np.eye(36), scheme, 2, most=10**6)
    np.testing.assert_allclose(
        fit.residual_norms(ranks), FrobeniusNorm().residual_norms(spectrum, ranks), atol=1e-4
    )


def test_more_data_blind_structure_loses_to_the_weighted_fit():
    kernel = np.random.default_rng(0).standard_normal((3, 3, 8, 16))
    rows, moment = _inputs(72)
    for scheme in range(4):
        plain = weighted_svd(kernel, np.eye(72), scheme, 1, 4).factorization(4, np.float64)
        fitted = weighted_svd(kernel, moment, scheme, 1, 4).factorization(4, np.float64)
        errors = [_output_error(rows, kernel - f.reconstruct()) for f in (plain, fitted)]
        assert errors[1] < 0.9 * errors[0]


def test_silent_inputs_do_no_harm():
    kernel = np.random.default_rng(0).standard_normal((1, 1, 8, 6))
    fit = weighted_svd(kernel, np.zeros((8, 8)), 0, 1, 3)
    built = fit.factorization(3, np.float32).reconstruct()
    assert np.isfinite(built).all() and fit.residual_norms(np.arange(4)).max() == 0.0
