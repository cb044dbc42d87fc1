"""From stored bytes to network inputs."""

import tensorflow as tf


def to_unit(x: tf.Tensor) -> tf.Tensor:
    """Returns uint8 images as float32 in [0, 1]."""
    return tf.cast(x, tf.float32) / 255


def whiten(x: tf.Tensor) -> tf.Tensor:
    """Returns images with zero mean and unit variance, each for itself."""
    return tf.image.per_image_standardization(tf.cast(x, tf.float32))


def crop_and_flip(x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns [N, H, W, C] padded by 2, cropped at random places, half of them mirrored.

    Args:
      seed: [2], of the batch.

    References: Adelman and Silberstein, 2018, "Wide ResNet-28-10 for CIFAR-100".
    """
    count, height, width = tf.shape(x)[0], x.shape[1], x.shape[2]
    padded = tf.pad(x, [[0, 0], [2, 2], [2, 2], [0, 0]])
    tops, lefts, flips = tf.unstack(tf.random.stateless_uniform([3, count], seed, 0, 60, tf.int32))
    rows = (tops % 5)[:, None] + tf.range(height)
    columns = (lefts % 5)[:, None] + tf.range(width)
    columns = tf.where((flips % 2 == 0)[:, None], columns, columns[:, ::-1])
    cropped = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(cropped, columns, axis=2, batch_dims=1)
