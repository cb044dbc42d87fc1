"""TensorFlow's draws against the numpy algebra; seeds are fixed, so nothing flickers."""

import numpy as np
import pytest
import tensorflow as tf

from tfapprox.errors import UserError
from tfapprox.ops.draw import _keep_probabilities, draw_pairs
from tfapprox.sampling.expected_error import count_moments
from tfapprox.sampling.probabilities import keep_probabilities
from tfapprox.sampling.settings import Sampling
from tfapprox.sampling.variants import VARIANTS

WEIGHTS = np.array([5.0, 3.0, 2.0, 1.0, 1.0, 0.5, 0.3, 0.2], np.float32)
RUNS = 4000


def counts(sampling, k, jit=False):
    """Returns the scaled count of each pair for RUNS seeds, [RUNS, n]."""

    @tf.function(jit_compile=jit)
    def count(seed):
        draw = draw_pairs(tf.constant(WEIGHTS), k, sampling, seed)
        scales = tf.ones(tf.shape(draw.indices)) if draw.scales is None else draw.scales
        return tf.scatter_nd(draw.indices[:, None], scales, [WEIGHTS.size])

    many = tf.function(
        lambda: tf.map_fn(
            lambda i: count(tf.stack([i, 5])), tf.range(RUNS), fn_output_signature=tf.float32
        )
    )
    return many().numpy()


@pytest.mark.parametrize(
    "name, scale",
    [
        (name, scale)
        for name, variant in VARIANTS.items()
        for scale in variant.scales
        if scale != "auto" and (name, scale) != ("nps", False)
    ],
)
def test_draws_have_the_moments_of_the_algebra(name, scale):
    sampling = Sampling(name, 0.4, scale=scale)
    drawn = counts(sampling, 3)
    mean, covariance = count_moments(VARIANTS[name], WEIGHTS.astype(float), 3, scale)
    spread = np.sqrt(np.diag(covariance))
    # 5 standard errors of a mean; heavy tails of the variance get a loose factor.
    np.testing.assert_array_less(np.abs(drawn.mean(0) - mean), 5 * spread / np.sqrt(RUNS) + 1e-4)
    assert np.isclose(drawn.var(0).sum(), np.trace(covariance), rtol=0.25, atol=1e-6)


def test_unscaled_successive_draws_prefer_heavy_pairs():
    drawn = counts(Sampling("nps", 0.4), 3)
    assert np.all(drawn.sum(1) == 3)
    assert drawn.mean(0)[0] > 0.8 > 0.2 > drawn.mean(0)[-1]


@pytest.mark.parametrize("name", ["bernoulli", "winner_take_all", "nps"])
def test_draws_compiled_by_xla_are_unbiased_too(name):
    # XLA's generator gives other numbers for the same seed.
    drawn = counts(Sampling(name, 0.4, scale=True), 3, jit=True)
    error = np.abs(drawn.mean(0) - 1)
    np.testing.assert_array_less(error, 5 * drawn.std(0) / np.sqrt(RUNS) + 1e-4)


@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize("p", [WEIGHTS / WEIGHTS.sum(), np.full(8, 0.125, np.float32)])
def test_keep_probabilities_are_those_of_the_algebra(k, p):
    actual = _keep_probabilities(tf.constant(p), k, 0.2)
    np.testing.assert_allclose(actual, keep_probabilities(p.astype(float), k, 0.2), rtol=1e-5)


def test_without_any_weight_draws_are_uniform_and_finite():
    for name in ("nps", "bernoulli", "nps_replacement", "winner_take_all"):
        draw = draw_pairs(tf.zeros(8), 3, Sampling(name, 0.4, scale=True), tf.constant([1, 2]))
        assert np.all(np.isfinite(draw.scales))


def test_threshold_keeps_as_many_pairs_as_hold_the_share_of_the_weight():
    draw = draw_pairs(tf.constant(WEIGHTS), 6, Sampling(), threshold=0.7)
    # 5 + 3 = 8 of 13 is 0.62, with 2 more 0.77.
    np.testing.assert_array_equal(draw.indices, [0, 1, 2])
    assert len(draw_pairs(tf.constant(WEIGHTS), 2, Sampling(), threshold=0.9).indices) == 2


@pytest.mark.parametrize("product, plain", [(10.0, True), (1000.0, False)])
def test_auto_scale_follows_the_size_of_the_product(product, plain):
    sampling = Sampling("uniform", 0.5, scale="auto")
    draw = draw_pairs(tf.ones(8), 4, sampling, tf.constant([1, 2]), lambda: tf.constant(product))
    np.testing.assert_allclose(draw.scales, 1.0 if plain else 2.0)


def test_random_draws_without_a_seed_are_refused():
    with pytest.raises(UserError, match="pass seed"):
        draw_pairs(tf.ones(4), 2, Sampling("nps", 0.5))
