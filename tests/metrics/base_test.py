import numpy as np
import pytest

from tfapprox.metrics import METRICS, relative_error


@pytest.mark.parametrize("name", sorted(METRICS))
def test_relative_error_is_that_of_the_difference(name):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((3, 3, 4, 5))
    assert relative_error(METRICS[name], kernel, 0.75 * kernel) == pytest.approx(0.25)
    assert relative_error(METRICS[name], kernel, -kernel) == pytest.approx(2.0)
    assert relative_error(METRICS[name], kernel, kernel) == 0.0


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_kernel_of_zeros_is_met_by_zeros_alone(name):
    kernel = np.zeros((1, 1, 3, 3))
    assert relative_error(METRICS[name], kernel, kernel) == 0.0
    assert relative_error(METRICS[name], kernel, kernel + 1) == np.inf
