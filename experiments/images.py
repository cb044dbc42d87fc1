"""From stored bytes to network inputs."""

import dataclasses

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class PrincipalAxes:
    """The principal axes of a set of images: their coordinates hold most energy in few columns.

    Sampling by norms then drops columns that matter little, where pixels of a border and
    of the middle matter alike. The rotation costs nothing in training, as it is done once,
    and nothing in serving, as a first dense layer takes it up.

    Attributes:
      mean: of the pixels in [0, 1], [d].
      axes: orthonormal columns by falling variance, divided by the deviation of all
        pixels, [d, d].
    """

    mean: np.ndarray
    axes: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray) -> "PrincipalAxes":
        """Args: images: uint8 [n, height, width, channels], for example the training set."""
        flat = _flat(images)
        mean = flat.mean(0)
        flat -= mean
        _, axes = np.linalg.eigh(flat.T @ flat)
        return cls(mean, (axes[:, ::-1] / flat.std()).astype(np.float32))

    def coordinates(self, images: np.ndarray) -> np.ndarray:
        """Returns the images' coordinates in the place of their pixels, float32."""
        return ((_flat(images) - self.mean) @ self.axes).reshape(images.shape)

    def fold(self, kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns kernel [d, p] and bias of a dense layer that takes pixels instead."""
        folded = self.axes @ kernel
        return folded, bias - self.mean @ folded


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / 255


def to_unit(x: tf.Tensor) -> tf.Tensor:
    """Returns uint8 images as float32 in [0, 1]."""
    return tf.cast(x, tf.float32) / 255


def whiten(x: tf.Tensor) -> tf.Tensor:
    """Returns images with zero mean and unit variance, each for itself."""
    return tf.image.per_image_standardization(tf.cast(x, tf.float32))


def crop_and_flip(x: tf.Tensor, seed: tf.Tensor, padding: int = 2) -> tf.Tensor:
    """Returns [N, H, W, C] padded by zeros, cropped at random places, half of them mirrored.

    Args:
      seed: [2], of the batch.
      padding: pixels on each side.

    References: Adelman and Silberstein, 2018, "Wide ResNet-28-10 for CIFAR-100" (padding 2);
    Elhoushi et al., 2019 (padding 4).
    """
    count, height, width = tf.shape(x)[0], x.shape[1], x.shape[2]
    padded = tf.pad(x, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
    places = 2 * padding + 1
    draws = tf.random.stateless_uniform([3, count], seed, 0, 12 * places, tf.int32)
    tops, lefts, flips = tf.unstack(draws)
    rows = (tops % places)[:, None] + tf.range(height)
    columns = (lefts % places)[:, None] + tf.range(width)
    columns = tf.where((flips % 2 == 0)[:, None], columns, columns[:, ::-1])
    cropped = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(cropped, columns, axis=2, batch_dims=1)


def crop_to(image: tf.Tensor, shape: tuple[int, int, int]) -> tf.Tensor:
    """Returns the middle of a picture [h, w, c], resized so that 7/8 of its shorter side fit.

    The evaluation crop of ImageNet networks: 256 and 224 pixels.
    """
    height, width, channels = shape
    if image.shape[2] != channels:
        image = tf.image.rgb_to_grayscale(image) if channels == 1 else tf.repeat(image, 3, axis=2)
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = tf.reduce_max(tf.constant([height, width], tf.float32) * (8 / 7) / size)
    resized = tf.image.resize(image, tf.cast(tf.math.ceil(size * scale), tf.int32), antialias=True)
    top, left = (tf.shape(resized)[0] - height) // 2, (tf.shape(resized)[1] - width) // 2
    cropped = tf.image.crop_to_bounding_box(resized, top, left, height, width)
    return tf.saturate_cast(tf.round(cropped), tf.uint8)
