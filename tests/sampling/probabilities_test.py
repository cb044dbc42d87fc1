import itertools

import numpy as np
import pytest

from tests.reference.channel_convolution import channel_products, pads
from tfapprox.sampling.probabilities import (
    channel_weights,
    exact_channel_weights,
    keep_probabilities,
    pair_weights,
    probabilities,
    winners,
)


def test_pair_weights_are_norms_of_the_outer_products():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 5)), rng.normal(size=(5, 3))
    outer = [np.linalg.norm(np.outer(a[:, i], b[i])) for i in range(5)]
    np.testing.assert_allclose(pair_weights(a, b), outer, rtol=1e-12)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    "kernel_size, strides, dilations",
    [((3, 3), (1, 1), (1, 1)), ((3, 2), (2, 1), (1, 1)), ((2, 3), (2, 3), (1, 1)),
     ((3, 3), (1, 1), (2, 1)), ((1, 1), (2, 2), (1, 1))],
)  # fmt: skip
def test_exact_channel_weights_are_the_norms_of_the_channels_convolutions(
    padding, kernel_size, strides, dilations
):
    rng = np.random.default_rng(1)
    inputs, kernel = rng.normal(size=(2, 6, 7, 4)), rng.normal(size=(*kernel_size, 4, 3))
    both = tuple(
        pads(inputs.shape[1 + axis], kernel_size[axis], strides[axis], dilations[axis], padding)
        for axis in (0, 1)
    )
    products = channel_products(inputs, kernel, both, strides, dilations)
    expected = np.sqrt(np.sum(products**2, axis=(1, 2, 3, 4)))
    actual = exact_channel_weights(inputs, kernel, both, strides, dilations)
    np.testing.assert_allclose(actual, expected, rtol=1e-10)


def test_for_one_tap_the_exact_weights_are_those_of_eq_8():
    rng = np.random.default_rng(2)
    inputs, kernel = rng.normal(size=(2, 4, 4, 5)), rng.normal(size=(1, 1, 5, 3))
    np.testing.assert_allclose(
        exact_channel_weights(inputs, kernel, ((0, 0), (0, 0))), channel_weights(inputs, kernel)
    )


def test_exact_probabilities_minimise_the_variance_of_independent_draws():
    rng = np.random.default_rng(3)
    inputs, kernel = np.abs(rng.normal(size=(2, 5, 5, 6))), rng.normal(size=(3, 3, 6, 2))
    alpha = exact_channel_weights(inputs, kernel, ((1, 1), (1, 1)))

    def variance(p):
        return np.sum(alpha**2 / p)

    best = variance(probabilities(alpha))
    assert best < variance(probabilities(channel_weights(inputs, kernel)))
    for _ in range(20):
        other = probabilities(alpha) * rng.uniform(0.8, 1.25, 6)
        assert best < variance(other / other.sum())


@pytest.mark.parametrize("k", [1, 3, 6])
def test_keep_probabilities_add_up_to_k_and_stay_proportional_below_one(k):
    p = np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.02])
    q = keep_probabilities(p, k)
    assert q.max() <= 1
    assert np.isclose(q.sum(), k)
    free = q < 1
    np.testing.assert_allclose(q[free] / p[free], (q[free] / p[free])[0])
    # A clipped pair would have got more than 1 at the common factor.
    assert np.all(p[~free] * (q[free] / p[free])[0] >= 1 - 1e-12)


def test_mixing_keeps_k_pairs_on_average():
    p = np.array([0.7, 0.2, 0.06, 0.03, 0.01])
    assert np.isclose(keep_probabilities(p, 2, mix=0.3).sum(), 2)


def test_pairs_of_weight_zero_are_never_kept():
    q = keep_probabilities(np.array([0.6, 0.4, 0.0, 0.0]), 3)
    np.testing.assert_array_equal(q, [1, 1, 0, 0])


def test_without_any_weight_probabilities_are_uniform():
    np.testing.assert_array_equal(probabilities(np.zeros(4)), np.full(4, 0.25))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_winners_have_the_least_leftover_mass_per_draw_of_all_sets(k):
    p = np.array([0.45, 0.25, 0.12, 0.08, 0.06, 0.04])

    def cost(kept):
        return (1 - p[list(kept)].sum()) / (k - len(kept))

    sets = [s for c in range(k) for s in itertools.combinations(range(6), c)]
    assert np.isclose(cost(winners(p, k)), min(map(cost, sets)))
