import numpy as np
import pytest
import tensorflow as tf

from tests.reference.channel_convolution import channel_products, pads
from tfapprox.errors import UserError
from tfapprox.ops.approx_conv2d import Placement, approx_conv2d
from tfapprox.ops.exact_channel_norms import exact_channel_norms
from tfapprox.sampling.probabilities import channel_weights
from tfapprox.sampling.settings import Sampling

SEED = tf.constant([3, 4])
PLACEMENTS = [
    Placement(),
    Placement((2, 1), "SAME"),
    Placement((1, 2), "VALID"),
    Placement((1, 1), "VALID", (2, 1)),
]


def tensors(batch=3, size=7, channels=6, filters=4, taps=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, size, size + 1, channels))
    return x, rng.normal(size=(taps, taps, channels, filters))


def products(x, kernel, at):
    both = tuple(
        pads(x.shape[1 + a], kernel.shape[a], at.strides[a], at.dilations[a], at.padding)
        for a in (0, 1)
    )
    return channel_products(x, kernel, both, at.strides, at.dilations)


def run(x, kernel, sampling, at=None, dy=None, **kwargs):
    x, kernel = tf.constant(x), tf.constant(kernel)
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        y = approx_conv2d(x, kernel, sampling, at, SEED, **kwargs)
        loss = tf.reduce_sum(y if dy is None else dy * y)
    return y, *tape.gradient(loss, [x, kernel])


def top(weights, k):
    return np.sort(np.argsort(-weights)[:k])


def test_with_all_ratios_one_the_convolution_is_tensorflows_bit_for_bit():
    x, kernel = (a.astype(np.float32) for a in tensors())
    x_t, kernel_t = tf.constant(x), tf.constant(kernel)
    with tf.GradientTape() as tape:
        tape.watch([x_t, kernel_t])
        y = tf.nn.conv2d(x_t, kernel_t, 1, "SAME")
        loss = tf.reduce_sum(y)
    expected = [y, *tape.gradient(loss, [x_t, kernel_t])]
    for actual, reference in zip(run(x, kernel, Sampling()), expected, strict=True):
        np.testing.assert_array_equal(actual, reference)


@pytest.mark.parametrize("at", PLACEMENTS, ids=str)
def test_top_k_adds_the_convolutions_of_the_heaviest_channels(at):
    x, kernel = tensors()
    kept = top(channel_weights(x, kernel), 3)
    y = approx_conv2d(x, kernel, Sampling(forward_ratio=0.5), at)
    np.testing.assert_allclose(y, products(x, kernel, at)[kept].sum(0), atol=1e-10)


@pytest.mark.parametrize("at", PLACEMENTS, ids=str)
def test_exact_channel_norms_are_those_of_the_channels_convolutions(at):
    x, kernel = tensors()
    expected = np.sqrt(np.sum(products(x, kernel, at) ** 2, axis=(1, 2, 3, 4)))
    actual = exact_channel_norms(
        tf.constant(x), tf.constant(kernel), at.strides, at.padding, at.dilations
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_exact_probabilities_choose_another_channel_than_eq_8_where_taps_cancel():
    x, kernel = np.ones((1, 6, 6, 3)), np.ones((3, 3, 3, 2))
    # Heavy by norm, but its taps cancel on a constant image.
    kernel[:, :, 0] = 3 * np.array([1, -1, 1, -1, 0, 1, -1, 1, -1]).reshape(3, 3, 1)
    outputs = {
        kind: approx_conv2d(
            x, kernel, Sampling(forward_ratio=0.4, probabilities=kind), Placement(padding="VALID")
        )
        for kind in ("norms", "exact")
    }
    np.testing.assert_allclose(outputs["norms"], 0, atol=1e-6)
    np.testing.assert_allclose(outputs["exact"], 9)


@pytest.mark.parametrize(
    "sampling, at",
    [
        (Sampling("topk", 0.5), PLACEMENTS[1]),
        (Sampling("topk", 1.0, threshold=0.6), PLACEMENTS[0]),
        (Sampling("nps_replacement", 0.7, scale=True), PLACEMENTS[2]),
        (Sampling("bernoulli", 0.5, scale=True), PLACEMENTS[0]),
    ],
    ids=str,
)
def test_gradients_are_those_of_the_sampled_convolution_with_the_draw_held_fixed(sampling, at):
    x, kernel = tensors(batch=2, size=5)
    y, dx, dk = run(x, kernel, sampling, at)
    parts = products(x, kernel, at)
    counted = np.linalg.lstsq(parts.reshape(6, -1).T, y.numpy().ravel(), rcond=None)[0]
    rng, step = np.random.default_rng(1), 1e-6
    for point, gradient, scaled in ((x, dx, x), (kernel, dk, kernel)):
        direction = rng.normal(size=point.shape)

        def loss(shift, of_x=scaled is x, direction=direction):
            moved = (x + shift * direction, kernel) if of_x else (x, kernel + shift * direction)
            return np.tensordot(counted, products(*moved, at), 1).sum()

        slope = (loss(step) - loss(-step)) / (2 * step)
        # The loss is near 10^2 and steps are 1e-6: round-off 1e-7; scales are float32.
        assert np.isclose(np.sum(direction * gradient), slope, rtol=1e-6, atol=1e-5)


def test_nested_gradients_sample_filters_for_dx_and_examples_for_dk():
    x, kernel = tensors(batch=12, size=4, channels=4, filters=14)
    dy = np.random.default_rng(2).normal(size=(12, 4, 5, 14)) * np.arange(1, 15)
    dy *= np.arange(1, 13)[:, None, None, None]
    sampling = Sampling(backward_ratio=0.5, min_samples=5)
    filters = top(np.sqrt(np.sum(dy**2, (0, 1, 2)) * np.sum(kernel**2, (0, 1, 2))), 7)
    examples = top(np.sqrt(np.sum(dy**2, (1, 2, 3)) * np.sum(x**2, (1, 2, 3))), 6)
    _, dx, dk = run(x, kernel, sampling, dy=dy)
    _, expected_dx, _ = run(x, kernel[..., filters], Sampling(), dy=dy[..., filters])
    _, _, expected_dk = run(x[examples], kernel, Sampling(), dy=dy[examples])
    np.testing.assert_allclose(dx, expected_dx, atol=1e-10)
    np.testing.assert_allclose(dk, expected_dk, atol=1e-10)


def test_meprop_keeps_the_same_filters_of_dy_in_both_gradients():
    x, kernel = tensors(batch=2, size=4, channels=4, filters=14)
    dy = np.random.default_rng(2).normal(size=(2, 4, 5, 14))
    filters = top(np.sqrt(np.sum(dy**2, (0, 1, 2))), 10)
    y, dx, dk = run(x, kernel, Sampling(mode="meprop", backward_ratio=0.1), dy=dy)
    exact_y, _, exact_dk = run(x, kernel, Sampling(), dy=dy)
    _, expected_dx, _ = run(x, kernel[..., filters], Sampling(), dy=dy[..., filters])
    dropped = np.setdiff1d(np.arange(14), filters)
    np.testing.assert_allclose(y, exact_y)
    np.testing.assert_allclose(dx, expected_dx, atol=1e-10)
    np.testing.assert_allclose(dk.numpy()[..., filters], exact_dk.numpy()[..., filters])
    assert not dk.numpy()[..., dropped].any()


def test_forward_only_sampling_has_the_exact_gradients():
    x, kernel = tensors()
    y, dx, dk = run(x, kernel, Sampling(forward_ratio=0.5, mode="forward_only"))
    exact = run(x, kernel, Sampling())
    assert not np.allclose(y, exact[0])
    np.testing.assert_allclose(dx, exact[1], atol=1e-10)
    np.testing.assert_allclose(dk, exact[2], atol=1e-10)


def test_auto_scale_is_unbiased_scaling_for_positive_factors():
    x, kernel = tensors(channels=32)
    results = {
        scale: run(x + 2, kernel + 2, Sampling("uniform", 0.25, scale=scale))[0]
        for scale in (True, False, "auto")
    }
    np.testing.assert_allclose(results["auto"], results[True])
    assert not np.allclose(results[True], results[False])


def test_xla_gives_the_same_convolution_and_gradients():
    x, kernel = (tf.constant(a, tf.float32) for a in tensors(batch=12, channels=16, filters=12))
    sampling = Sampling("topk", 0.5, 0.5)

    def both(x, kernel):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = approx_conv2d(x, kernel, sampling, Placement((2, 2)), SEED)
            loss = tf.reduce_sum(y**2)
        return (y, *tape.gradient(loss, [x, kernel]))

    plain = tf.function(both)(x, kernel)
    for a, b in zip(plain, tf.function(both, jit_compile=True)(x, kernel), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-2 * np.abs(a).max())


def test_grouped_kernels_are_refused_with_the_reason():
    x, kernel = tensors()
    with pytest.raises(UserError, match="grouped convolutions exact"):
        approx_conv2d(x, kernel[:, :, :3], Sampling(forward_ratio=0.5))
    with pytest.raises(UserError, match="SAME or VALID"):
        Placement(padding="FULL")
