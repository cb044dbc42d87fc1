"""Convolution kernels from codes and slices, in TensorFlow."""

from collections.abc import Sequence

import tensorflow as tf

from tfapprox.decompositions.slice_generator import SliceShape


def generate_kernel(codes: tf.Tensor, slices: tf.Tensor, kernel_shape: Sequence[int]) -> tf.Tensor:
    """Returns the kernel [H, W, I, O] whose slices are codes @ slices, cropped to size.

    Differentiable in both arguments.

    Args:
      codes: [number of slices, n_c], ordered by block row, block column, block of
        inputs, block of outputs (as `decompositions.slice_generator.partition`).
      slices: [n_c, height, width, in, out], the generator: one basis slice a row.
      kernel_shape: [H, W, I, O].

    References:
      Omidvar et al. 2021, eq. 1 and footnote 2 (fractional partitions).
    """
    steps = [int(size) for size in slices.shape[1:]]
    height, width, in_channels, out_channels = steps
    shape = SliceShape(out_channels, in_channels, height, width)
    grid = shape.grid(kernel_shape)
    rows = tf.matmul(codes, tf.reshape(slices, [int(slices.shape[0]), shape.size]))
    if all(count == 1 for count in grid):
        padded = tf.reshape(rows, steps)
    else:
        blocks = tf.reshape(rows, [*grid, *steps])
        blocks = tf.transpose(blocks, [0, 4, 1, 5, 2, 6, 3, 7])
        padded = tf.reshape(blocks, [n * step for n, step in zip(grid, steps, strict=True)])
    if tuple(padded.shape) == tuple(kernel_shape):
        return padded
    return tf.slice(padded, [0, 0, 0, 0], list(kernel_shape))
