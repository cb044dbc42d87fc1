import numpy as np
import pytest

from tests.reference import variational_bayes
from tfapprox.decompositions.evbmf import evbmf_rank, free_energy, noise_variance


def _values(rows, columns, rank, noise, seed=0, strength=1.0):
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=(rows, rank)) @ generator.normal(size=(rank, columns))
    matrix = strength * signal + noise * generator.normal(size=(rows, columns))
    return np.linalg.svd(matrix, compute_uv=False)


@pytest.mark.parametrize(("rows", "columns", "rank"), [(64, 576, 10), (96, 96, 5), (200, 800, 30)])
def test_planted_rank_and_noise_are_found(rows, columns, rank):
    values = _values(rows, columns, rank, noise=1.0)
    assert evbmf_rank(values, (rows, columns)) == rank
    # L M entries estimate the variance to about sqrt(2 / (L M)) < 0.016; 5 % is 3 of these
    # and the share of the noise that the signal's subspace takes away.
    assert noise_variance(values, (rows, columns)) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e6])
def test_scale_changes_nothing(scale):
    values = _values(30, 80, 6, noise=0.7)
    assert evbmf_rank(scale * values, (30, 80)) == evbmf_rank(values, (30, 80)) > 0
    assert noise_variance(scale * values, (30, 80)) == pytest.approx(
        scale**2 * noise_variance(values, (30, 80)), rel=1e-6
    )


def test_transposing_changes_nothing():
    values = _values(30, 80, 6, noise=0.7)
    assert evbmf_rank(values, (80, 30)) == evbmf_rank(values, (30, 80))


def test_agrees_with_exhaustive_search_also_where_the_free_energy_has_several_minima():
    generator = np.random.default_rng(0)
    several = 0
    for _ in range(40):
        short = int(generator.integers(2, 10))
        shape = short, int(generator.integers(short, 40))
        values = np.sort(np.exp(generator.normal(size=short) * generator.uniform(0.1, 2)))[::-1]
        rank, variance = variational_bayes.rank(values, shape)
        assert evbmf_rank(values, shape) == rank
        found = variational_bayes.free_energy(values, shape, noise_variance(values, shape))
        assert found <= variational_bayes.free_energy(values, shape, variance) + 1e-9
        several += variational_bayes.local_minima(values, shape) > 1
    assert several >= 5


def test_free_energy_is_the_printed_one():
    values = np.array([5.0, 2.0, 0.5])
    expected = [variational_bayes.free_energy(values, (3, 7), v) for v in (0.01, 0.3, 2.0)]
    actual = free_energy(np.log([0.01, 0.3, 2.0]), values**2, long=7)
    np.testing.assert_allclose(actual, expected, rtol=1e-9)


def test_pure_noise_and_zeros_and_flat_spectra_have_rank_0():
    assert evbmf_rank(_values(64, 576, 1, noise=1.0, strength=0.0), (64, 576)) == 0
    assert evbmf_rank(np.zeros(64), (64, 100)) == 0
    assert evbmf_rank(np.ones(64), (64, 100)) == 0


def test_a_matrix_without_noise_has_its_own_rank():
    assert evbmf_rank(_values(64, 100, 6, noise=0.0), (64, 100)) == 6


def test_full_rank_is_never_returned():
    assert evbmf_rank(_values(8, 500, 8, noise=0.0), (8, 500)) < 8
    assert evbmf_rank(np.array([3.0]), (1, 9)) == 0


def test_missing_singular_values_are_refused():
    with pytest.raises(ValueError, match="has 30 singular values, got 20"):
        evbmf_rank(np.ones(20), (30, 80))
