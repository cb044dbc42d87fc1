"""A 2-D convolution trained on a sample of its input channels."""

from typing import Any

import tensorflow as tf
from tensorflow import keras

from tfapprox.errors import UserError
from tfapprox.layers.column_row_sampled import ColumnRowSampled
from tfapprox.ops.approx_conv2d import Placement, approx_conv2d


@keras.utils.register_keras_serializable("tfapprox")
class CRSConv2D(ColumnRowSampled, keras.layers.Conv2D):
    """A Conv2D layer that samples its input channels in training, and is exact elsewhere.

    Args: those of Conv2D, and `sampling`, `first_layer`, `seed` of `ColumnRowSampled`.

    Raises:
      UserError: groups, or channels first, which the sampled convolution does not do.

    References: Adelman and Silberstein, 2018, section 4.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.groups > 1:
            raise UserError(
                f"layer {self.name} has {self.groups} groups, each with too few channels to "
                "sample among: keep it a Conv2D"
            )
        if self.data_format != "channels_last":
            raise UserError(f"layer {self.name} must be channels_last, got {self.data_format}")

    def sampled_product(
        self, inputs: tf.Tensor, kernel: tf.Tensor, seed: tf.Tensor | None
    ) -> tf.Tensor:
        placement = Placement(tuple(self.strides), self.padding.upper(), tuple(self.dilation_rate))
        return approx_conv2d(inputs, kernel, self.sampling, placement, seed, not self.first_layer)
