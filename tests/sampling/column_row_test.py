"""Draws on larger sizes against the closed forms; seeds are fixed, so the tests do not flicker."""

import numpy as np
import pytest

from tfapprox.errors import UserError
from tfapprox.sampling.column_row import approximate_product, draw
from tfapprox.sampling.expected_error import expected_squared_error, pair_gram
from tfapprox.sampling.probabilities import pair_weights
from tfapprox.sampling.variants import VARIANTS, sample_size


@pytest.mark.parametrize("name", VARIANTS)
def test_average_error_over_draws_matches_the_closed_form(name):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(8, 40)), rng.normal(size=(40, 6)) * rng.exponential(size=(40, 1))
    scale = True in VARIANTS[name].scales
    errors = [
        np.sum((a @ b - approximate_product(a, b, VARIANTS[name], 12, rng, scale)) ** 2)
        for _ in range(3000)
    ]
    expected = expected_squared_error(
        pair_gram(a, b), VARIANTS[name], pair_weights(a, b), 12, scale
    )
    # 5 standard errors: a false failure in fewer than 1 of 10^6 seeds.
    tolerance = 5 * np.std(errors) / np.sqrt(len(errors)) + 1e-9 * expected
    assert abs(np.mean(errors) - expected) <= tolerance


@pytest.mark.parametrize("name", VARIANTS)
def test_keeping_all_pairs_is_exact_whatever_the_variant(name):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(3, 7)), rng.normal(size=(7, 2))
    scale = VARIANTS[name].scales[0]
    np.testing.assert_array_equal(approximate_product(a, b, VARIANTS[name], 7, rng, scale), a @ b)


@pytest.mark.parametrize("name", ["nps", "uniform", "topk"])
def test_draws_without_replacement_do_not_repeat(name):
    rng = np.random.default_rng(2)
    sample = draw(VARIANTS[name], rng.exponential(size=30), 20, rng)
    assert len(set(sample.indices)) == 20


def test_sample_size_follows_the_convention():
    assert sample_size(784, 0.4) == 313
    assert sample_size(100, 0.29) == 29
    assert sample_size(500, 0.001) == 1
    assert sample_size(50, 0.05, minimum=10) == 10
    assert sample_size(8, 0.5, minimum=10) == 8


def test_top_k_refuses_a_scale():
    with pytest.raises(UserError, match="scale"):
        draw(VARIANTS["topk"], np.ones(4), 2, np.random.default_rng(0), scale=True)
