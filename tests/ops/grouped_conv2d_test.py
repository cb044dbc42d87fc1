import numpy as np
import pytest
import tensorflow as tf

from tfapprox.ops.approx_conv2d import Placement
from tfapprox.ops.grouped_conv2d import gather_groups, grouped_conv2d, spread_groups


def one_by_one(x, kernel, groups, placement):
    """A convolution for each group, side by side."""
    inputs, filters = tf.split(x, groups, axis=-1), tf.split(kernel, groups, axis=-1)
    how = (placement.strides, placement.padding, None, placement.dilations)
    outputs = [tf.nn.convolution(a, b, *how) for a, b in zip(inputs, filters, strict=True)]
    return tf.concat(outputs, axis=-1)


@pytest.mark.parametrize(
    "placement",
    [Placement(), Placement((2, 2), "SAME"), Placement((1, 1), "VALID", (2, 2))],
    ids=str,
)
def test_groups_and_their_gradients_are_those_of_separate_convolutions(placement):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(2, 9, 8, 6)), tf.float32)
    kernel = tf.constant(rng.normal(size=(3, 3, 2, 9)), tf.float32)
    found, expected = [], []
    for results, convolve in ((found, grouped_conv2d), (expected, one_by_one)):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = convolve(x, kernel, 3, placement)
            loss = tf.reduce_sum(tf.sin(y))
        results += [y, *tape.gradient(loss, [x, kernel])]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)  # sums of some 500 terms


def test_spreading_and_gathering_undo_each_other():
    kernel = tf.constant(np.random.default_rng(1).normal(size=(1, 2, 2, 9)))
    full = spread_groups(kernel, 3)
    assert full.shape == (1, 2, 6, 9)
    assert np.count_nonzero(full) == kernel.shape.num_elements()
    np.testing.assert_array_equal(gather_groups(full, 3), kernel)
