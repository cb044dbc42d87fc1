"""Grouped convolutions that can be trained on a CPU."""

import numpy as np
import tensorflow as tf

from tfapprox.ops.approx_conv2d import Placement


def grouped_conv2d(
    x: tf.Tensor, kernel: tf.Tensor, groups: int, placement: Placement | None = None
) -> tf.Tensor:
    """Returns the convolution of each block of channels with its own block of filters.

    TensorFlow computes it on every device, but has no gradients of it for CPUs (Keras 3
    turns to XLA there, which is slower by orders of magnitude). So the gradients are
    those of the equal convolution without groups, whose kernel has zeros between the
    blocks: more multiply-adds, by the factor `groups`, and a fast routine.

    Args:
      x: [N, H, W, I].
      kernel: [h, w, I / groups, O].
      groups: blocks of consecutive channels; divides I and O.
      placement: strides, padding and dilations.
    """
    placed = placement or Placement()
    if max(placed.dilations) > 1:  # CPUs have gradients of these in tf.nn.convolution alone
        full = spread_groups(kernel, groups)
        return tf.nn.convolution(x, full, placed.strides, placed.padding, None, placed.dilations)

    @tf.custom_gradient
    def convolve(x: tf.Tensor, kernel: tf.Tensor) -> tuple:
        def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            full = spread_groups(kernel, groups)
            dx = placed.input_gradient(tf.shape(x), full, dy)
            return dx, gather_groups(placed.kernel_gradient(x, tf.shape(full), dy), groups)

        return placed.convolve(x, kernel), gradient

    return convolve(x, kernel)


def spread_groups(kernel: tf.Tensor, groups: int) -> tf.Tensor:
    """Returns the kernel without groups, [h, w, I, O], zero between the blocks."""
    mask = tf.constant(_mask(kernel.shape, groups), kernel.dtype)
    return tf.tile(kernel, [1, 1, groups, 1]) * mask


def gather_groups(full: tf.Tensor, groups: int) -> tf.Tensor:
    """Returns the blocks of a kernel [h, w, I, O], as [h, w, I / groups, O]."""
    height, width, inputs, outputs = full.shape
    blocks = tf.reshape(full, [height, width, groups, inputs // groups, groups, outputs // groups])
    own = [blocks[:, :, group, :, group] for group in range(groups)]
    return tf.concat(own, axis=-1)


def _mask(shape: tf.TensorShape, groups: int) -> np.ndarray:
    fan_in, outputs = int(shape[2]), int(shape[3])
    return np.kron(np.eye(groups), np.ones((fan_in, outputs // groups)))
