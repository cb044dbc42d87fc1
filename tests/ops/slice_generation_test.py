import numpy as np
import pytest
import tensorflow as tf

from tests.reference.finite_differences import gradient
from tests.reference.slices import generated_kernel
from tfapprox.decompositions.slice_generator import SliceShape
from tfapprox.ops.slice_generation import generate_kernel

SHAPE = SliceShape(out_channels=3, in_channels=2, height=3, width=2)


def draw(kernel_shape, code_size=4):
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(SHAPE.count(kernel_shape), code_size))
    return codes, rng.normal(size=(code_size, *SHAPE.hwio))


@pytest.mark.parametrize("kernel_shape", [(3, 2, 2, 3), (3, 3, 5, 7), (1, 1, 3, 2), (5, 4, 2, 2)])
def test_kernels_agree_with_a_slow_reference(kernel_shape):
    codes, slices = draw(kernel_shape)
    kernel = generate_kernel(tf.constant(codes), tf.constant(slices), kernel_shape)
    expected = generated_kernel(codes, slices, kernel_shape)
    np.testing.assert_allclose(kernel, expected, rtol=0, atol=1e-12)


def test_gradients_agree_with_central_differences():
    kernel_shape = (3, 3, 3, 4)
    codes, slices = draw(kernel_shape)
    weight = np.random.default_rng(1).normal(size=kernel_shape)

    def loss(codes, slices):
        kernel = generate_kernel(tf.convert_to_tensor(codes), slices, kernel_shape)
        return tf.reduce_sum(weight * tf.sin(kernel))

    arguments = [tf.constant(codes), tf.constant(slices)]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        value = loss(*arguments)
    by_codes, by_slices = tape.gradient(value, arguments)
    # Central differences with step 1e-6 are good to about 1e-9.
    expected = gradient(lambda x: float(loss(x, slices)), codes)
    np.testing.assert_allclose(by_codes, expected, atol=1e-7)
    expected = gradient(lambda x: float(loss(codes, x)), slices)
    np.testing.assert_allclose(by_slices, expected, atol=1e-7)
