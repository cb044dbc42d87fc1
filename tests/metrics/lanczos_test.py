import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfapprox.metrics import lanczos
from tfapprox.metrics.lanczos import largest_eigenvalue


@given(st.integers(65, 120), st.integers(1, 150), st.booleans(), st.integers(0, 2**16))
def test_it_agrees_with_lapack(size, rank, guessed, seed):
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((size, rank))
    matrix = factor @ factor.T
    guess = rng.standard_normal(size) if guessed else None
    value, vector = largest_eigenvalue(matrix, guess)
    assert value == pytest.approx(np.linalg.eigvalsh(matrix)[-1], rel=1e-5)
    assert np.linalg.norm(matrix @ vector - value * vector) <= 2e-5 * value


def test_a_guess_that_is_another_eigenvector_does_not_mislead():
    matrix = np.diag(np.linspace(0, 1, 100))
    value, _ = largest_eigenvalue(matrix, np.eye(100)[40])
    assert value == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("size", [3, 100])
def test_zero_has_eigenvalue_zero(size):
    assert largest_eigenvalue(np.zeros((size, size)))[0] == 0.0


def test_the_whole_space_is_used_where_nothing_less_will_do(monkeypatch):
    monkeypatch.setattr(lanczos, "_TOLERANCE", -1.0)
    values = np.linspace(0.5, 1.0, 71)
    value, vector = largest_eigenvalue(np.diag(values))
    assert value == pytest.approx(1.0, rel=1e-12)
    assert abs(vector[-1]) == pytest.approx(1.0, rel=1e-12)
