import numpy as np
import pytest

from tfapprox.calibration.moments import MomentAccumulator, shrinkage_for
from tfapprox.calibration.weights import CovarianceWeight, DiagonalWeight, weighted_norm


def _rows(count=400, size=12, mean=50.0):
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, size)) @ rng.standard_normal((size, size)) + mean


def _kernel(size=12, out_channels=5):
    return np.random.default_rng(1).standard_normal((1, 2, size // 2, out_channels))


def _gathered(rows, kernel, keeps_inputs, **settings):
    accumulator = MomentAccumulator(kernel, keeps_inputs)
    for batch in np.array_split(rows, 7):
        accumulator.add(batch)
    return accumulator.finish(**settings)


@pytest.mark.parametrize("centred", [True, False])
def test_batches_add_up_to_the_moment_of_all_rows(centred):
    rows, kernel = _rows(), _kernel()
    moments = _gathered(rows, kernel, True, centred=centred, shrinkage=0.0)
    center = rows.mean(axis=0) if centred else 0.0
    expected = (rows - center).T @ (rows - center) / len(rows)
    assert moments.rows == len(rows)
    np.testing.assert_allclose(moments.center, center + np.zeros(12), rtol=1e-12)
    # Kept in float32; the mean is 50 times the deviation, squared.
    assert np.linalg.norm(moments.inputs - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_the_outputs_moment_is_that_of_the_inputs_seen_through_the_kernel(centred, shrinkage):
    rows, kernel = _rows(mean=2.0), _kernel()
    settings = {"centred": centred, "shrinkage": shrinkage}
    inputs = _gathered(rows, kernel, True, **settings).inputs
    outputs = _gathered(rows, kernel, False, **settings).outputs
    matrix = kernel.reshape(12, -1)
    np.testing.assert_allclose(outputs, matrix.T @ inputs @ matrix, rtol=1e-4, atol=1e-3)


def test_the_norm_is_the_energy_of_the_outputs():
    rows, kernel = _rows(mean=1.0), _kernel()
    weight = CovarianceWeight(_gathered(rows, kernel, True, shrinkage=0.0))
    outputs = (rows - rows.mean(axis=0)) @ kernel.reshape(12, -1)
    assert weighted_norm(weight, kernel) == pytest.approx(
        np.sqrt(np.square(outputs).sum() / len(rows)), rel=1e-5
    )


def test_shrinkage_vanishes_with_many_rows_and_is_total_for_white_inputs():
    covariance = np.diag(np.geomspace(1, 1e-4, 10))
    shares = [shrinkage_for(covariance, rows) for rows in (20, 200, 20000)]
    assert 1 > shares[0] > shares[1] > shares[2] and shares[2] < 1e-2
    assert shrinkage_for(np.eye(10), 100) == 1.0


def test_shrinkage_brings_a_small_sample_closer_to_the_truth():
    rng = np.random.default_rng(0)
    scale = np.geomspace(1, 0.1, 40)
    rows = rng.standard_normal((30, 40)) * scale
    plain = _gathered(rows, _kernel(40), True, centred=False, shrinkage=0.0).inputs
    shrunk = _gathered(rows, _kernel(40), True, centred=False).inputs
    errors = [np.linalg.norm(m - np.diag(scale**2)) for m in (plain, shrunk)]
    assert errors[1] < 0.9 * errors[0]


def test_no_rows_are_an_error():
    with pytest.raises(ValueError, match="no rows"):
        MomentAccumulator(_kernel(), True).finish()


def test_the_diagonal_weight_counts_each_entry_by_itself():
    kernel = _kernel()
    squares = np.random.default_rng(0).random(kernel.shape)
    expected = np.sqrt(np.square(kernel * np.sqrt(squares)).sum())
    assert weighted_norm(DiagonalWeight(squares), kernel) == pytest.approx(expected, rel=1e-2)
