"""A one-dimensional convolution whose kernel is made of slices from a shared generator."""

from typing import Any

import tensorflow as tf
from tensorflow import keras

from tfapprox.layers.slice_generated_conv2d import SliceGeneratedConv2D


@keras.utils.register_keras_serializable("tfapprox")
class SliceGeneratedConv1D(SliceGeneratedConv2D):
    """Convolves sequences [N, T, C]; otherwise as `SliceGeneratedConv2D`.

    The kernel is generated as [1, width, in, out], so one generator may serve layers
    of one and of two dimensions.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: str = "valid",
        dilation_rate: int | tuple[int, int] = 1,
        **options: Any,
    ):
        super().__init__(
            filters,
            _along_width(kernel_size),
            _along_width(strides),
            padding,
            _along_width(dilation_rate),
            **options,
        )

    def _convolve(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.squeeze(super()._convolve(tf.expand_dims(x, 1), kernel), 1)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        batch, length, _ = tuple(input_shape[0])
        return (batch, self._output_length(1, length), self.filters)


def _along_width(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (1, value) if isinstance(value, int) else (1, int(value[-1]))
